//! The `keepfs` command.

fn main() -> std::process::ExitCode {
    limit_arenas();
    std::process::ExitCode::from(keepfs::cli::run())
}

/// glibc gives each thread an arena of its own, up to eight for each core, and keeps in each what was ever used there:
/// with buffers of megabytes that is most of the process. Four share well, as large buffers are mapped apart.
fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 4);
    }
}
