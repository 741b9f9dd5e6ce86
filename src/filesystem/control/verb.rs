//! What is written to a control file: one verb a write.

use crate::error::{Error, Kind, Result};

/// Bytes of a verb at most.
const BYTES_MAX: usize = 4096;

/// The verb in the bytes of one write(2): a line, without blanks around it.
pub(super) fn parse(written: &[u8]) -> Result<&str> {
    let refuse = |message: &str| Err(Error::new(Kind::Invalid, message));
    if written.len() > BYTES_MAX {
        return refuse("a verb has 4096 bytes at most; nothing was done");
    }
    let Ok(text) = std::str::from_utf8(written) else {
        return refuse("a verb is text in UTF-8; nothing was done");
    };
    let verb = text.trim();
    if verb.is_empty() {
        return refuse("no verb was written; read the file to see which there are");
    }
    if verb.contains(char::is_control) {
        return refuse("one write is one verb on one line; nothing was done");
    }
    Ok(verb)
}

/// The refusal of a verb where nothing was handed in that could carry it out.
pub(super) fn nobody_acts() -> Error {
    Error::new(Kind::ReadOnly, "nothing can be written here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_one_verb_with_or_without_a_newline() {
        for written in ["retry", "retry\n", " retry \r\n"] {
            assert_eq!(parse(written.as_bytes()).unwrap(), "retry");
        }
        assert_eq!(parse(b"rate 10 MiB\n").unwrap(), "rate 10 MiB");
        assert_eq!(parse(&[b'x'; BYTES_MAX]).unwrap().len(), BYTES_MAX);
    }

    #[test]
    fn what_is_no_verb_is_invalid() {
        let long = [b'x'; BYTES_MAX + 1];
        let others: [&[u8]; 5] = [b"", b"\n \n", b"retry\nskip\n", b"re\0try", b"\xff\n"];
        for written in others.into_iter().chain([&long[..]]) {
            assert_eq!(parse(written).unwrap_err().kind(), Kind::Invalid);
        }
    }
}
