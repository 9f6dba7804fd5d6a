//! LoRAs of every naming.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    longreel_weights::fuzzing::lora(bytes);
});
