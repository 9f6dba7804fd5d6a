//! The networks: transformer, VAE, UMT5, CLIP and their tokenizers.
