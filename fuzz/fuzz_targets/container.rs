//! safetensors, GGUF and PyTorch archives, down to the values of every tensor.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    longreel_weights::fuzzing::container(bytes);
});
