//! Storage classes (S3, GCS) and access tiers (Azure), as far as keepfs must tell them apart.

use super::Provider;

/// Whether what is in this class can only be read some hours after somebody has asked for it.
pub(super) fn needs_retrieval(provider: Provider, class: &str) -> bool {
    match provider {
        Provider::S3 => matches!(class, "GLACIER" | "DEEP_ARCHIVE"),
        Provider::Azure => class.eq_ignore_ascii_case("archive"),
        // GCS reads all of its classes at once.
        Provider::Gcs => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_what_is_only_cold() {
        for (provider, class, archive) in [
            (Provider::S3, "GLACIER", true),
            (Provider::S3, "DEEP_ARCHIVE", true),
            (Provider::S3, "GLACIER_IR", false),
            (Provider::S3, "STANDARD_IA", false),
            (Provider::Azure, "Archive", true),
            (Provider::Azure, "archive", true),
            (Provider::Azure, "Cold", false),
            (Provider::Gcs, "ARCHIVE", false),
        ] {
            assert_eq!(needs_retrieval(provider, class), archive, "{class}");
        }
    }
}
