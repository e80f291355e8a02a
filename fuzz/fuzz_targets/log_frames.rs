#![no_main]

use attache_fuzz::laws;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    laws::log_frames(bytes, bytes.len() % 7 + 2);
});
