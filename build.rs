//! Has relocations packed (`DT_RELR`), which the loader reads from first to last: unpacked they are more than a megabyte that stays resident, and
//! an idle proxy should be small. Generates no code.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // glibc reads them since 2.36 (2022). Static binaries are musl's, and as they were.
    if std::env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
