//! Entry: hands over to the command line.

use std::process::ExitCode;

/// musl's allocator, in the static binary, serves one thread at a time; glibc's keeps what it was
/// given. Both matter to a proxy that runs for months.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    attache::cli::main()
}
