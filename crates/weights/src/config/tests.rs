use super::*;

#[test]
fn absent_keys_have_the_defaults_of_the_named_class() {
    let wan = TransformerConfig::from_json(r#"{"_class_name": "WanTransformer3DModel"}"#).unwrap();
    assert_eq!((wan.num_attention_heads, wan.ffn_dim, wan.num_layers), (40, 13824, 40));
    let skyreels =
        TransformerConfig::from_json(r#"{"_class_name": "SkyReelsV2Transformer3DModel"}"#).unwrap();
    assert_eq!((skyreels.num_attention_heads, skyreels.ffn_dim), (16, 8192));
}

#[test]
fn a_config_survives_writing_and_reading() {
    let config =
        TransformerConfig::from_json(r#"{"in_channels": 36, "out_channels": 16}"#).unwrap();
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<TransformerConfig>(&json).unwrap(), config);
    let vae = VaeConfig::from_json("{}").unwrap();
    let json = serde_json::to_string(&vae).unwrap();
    assert_eq!(serde_json::from_str::<VaeConfig>(&json).unwrap(), vae);
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, crate::WeightsError>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
}

#[test]
fn values_out_of_range_are_refused_with_key_and_value() {
    let transformer = TransformerConfig::from_json;
    refused(
        transformer(r#"{"num_attention_heads": 0}"#),
        &["num_attention_heads = 0", "1 to 1024"],
    );
    refused(transformer(r#"{"num_layers": 1e30}"#), &["num_layers = 1e+30"]);
    refused(transformer(r#"{"num_layers": -1}"#), &["num_layers = -1"]);
    refused(transformer(r#"{"ffn_dim": 18446744073709551615}"#), &["ffn_dim"]);
    refused(transformer(r#"{"eps": 0}"#), &["eps = 0"]);
    refused(transformer(r#"{"patch_size": [2, 2, 2]}"#), &["patch_size = [2,2,2]"]);
    refused(transformer(r#"{"patch_size": 2}"#), &["patch_size = 2"]);
    refused(transformer("[]"), &["not a JSON object"]);
    refused(transformer(r#"{"attention_head_dim": 33}"#), &["attention_head_dim = 33", "even"]);
    refused(VaeConfig::from_json(r#"{"z_dim": 8}"#), &["latents_mean", "8 latent channels"]);
    refused(VaeConfig::from_json(r#"{"dim_mult": []}"#), &["dim_mult"]);
    refused(TextConfig::from_json(r#"{"num_heads": 0}"#), &["num_heads = 0"]);
    refused(ClipVisionConfig::from_json(r#"{"patch_size": 0}"#), &["patch_size = 0"]);
    refused(
        ClipVisionConfig::from_json(r#"{"hidden_size": 7, "num_attention_heads": 2}"#),
        &["hidden_size = 7"],
    );
}

#[test]
fn features_of_other_families_are_refused_by_name() {
    refused(VaeConfig::from_json(r#"{"is_residual": true}"#), &["is_residual = true", "2.2"]);
    refused(VaeConfig::from_json(r#"{"patch_size": 2}"#), &["patch_size = 2", "2.2"]);
    refused(
        TransformerConfig::from_json(r#"{"_class_name": "WanVACETransformer3DModel"}"#),
        &["WanVACETransformer3DModel"],
    );
    refused(TransformerConfig::from_json(r#"{"vace_layers": [0, 5]}"#), &["vace_layers = [0,5]"]);
    refused(TextConfig::from_json(r#"{"model_type": "t5"}"#), &["model_type = \"t5\""]);
}

#[test]
fn hostile_keys_and_values_are_cut_in_the_message() {
    let json = format!(r#"{{"{}": "{}"}}"#, "k".repeat(100_000), "ä".repeat(100_000));
    assert!(TransformerConfig::from_json(&json).unwrap_err().to_string().len() < 1000);
}
