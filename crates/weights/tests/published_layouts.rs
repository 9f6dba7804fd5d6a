//! Every published model in every published layout, by name and shape.
//!
//! The lists were recorded by `parity/layouts.py` from the classes that wrote the files. Files have their real
//! sizes (up to 33 GB) and are holes behind the header.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Tensor, by_name, gguf, layouts_json, list, pth, safetensors, sharded};
use longreel_weights::{
    ExpectedTensor, Family, Layout, ModelFolder, ModelKind, TensorSource, inspect,
    published_image_encoder, published_models, published_text_encoder,
};
use tempfile::TempDir;

/// How a model's files may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    DiffusersSingle,
    DiffusersSharded,
    Official,
    /// With the prefix `model.diffusion_model.`, or without.
    ComfyUi {
        prefixed: bool,
    },
    Gguf(&'static str),
}

impl Form {
    const ALL: [Self; 6] = [
        Self::DiffusersSingle,
        Self::DiffusersSharded,
        Self::Official,
        Self::ComfyUi { prefixed: false },
        Self::ComfyUi { prefixed: true },
        Self::Gguf("Q4_K"),
    ];

    fn is_diffusers(self) -> bool {
        matches!(self, Self::DiffusersSingle | Self::DiffusersSharded)
    }
}

/// The lists of one model in one form, to be changed before they are written.
#[derive(Clone)]
struct Model {
    name: String,
    /// The recorded JSON of the model and of the parts that all have in common.
    json: serde_json::Value,
    common: serde_json::Value,
    takes_image: bool,
    transformer: Vec<Tensor>,
    vae: Vec<Tensor>,
    text: Vec<Tensor>,
    clip: Vec<Tensor>,
}

impl Model {
    fn new(content: &serde_json::Value, name: &str, form: Form) -> Self {
        let json = content["models"][name].clone();
        let lists = |part: &str, key: &str| list(content[part][key].as_str().unwrap());
        let key = if form.is_diffusers() { "diffusers" } else { "original" };
        let (text, clip) = match form {
            Form::DiffusersSingle | Form::DiffusersSharded => ("diffusers", "with_projection"),
            Form::Official => ("original", "original"),
            Form::ComfyUi { .. } => ("diffusers", "with_projection"),
            Form::Gguf(_) => ("llama_cpp", "diffusers"),
        };
        Self {
            name: name.to_owned(),
            takes_image: !json["diffusers_config"]["image_dim"].is_null(),
            transformer: list(json[key].as_str().unwrap()),
            vae: lists("vae", key),
            text: lists("text", text),
            clip: lists("clip", clip),
            common: content.clone(),
            json,
        }
    }

    /// Writes the model into a folder of its name and gives what is to be opened.
    fn write(&self, root: &Path, form: Form) -> PathBuf {
        let folder = root.join(&self.name);
        let inside = |name: &str| {
            let path = folder.join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        fs::create_dir_all(&folder).unwrap();
        let config = |folder: &Path, config: &serde_json::Value| {
            fs::write(folder.join("config.json"), config.to_string()).unwrap();
        };
        match form {
            Form::DiffusersSingle | Form::DiffusersSharded => {
                let parts: [(&str, &str, &Vec<Tensor>, &serde_json::Value, usize); 4] = [
                    (
                        "transformer",
                        "diffusion_pytorch_model",
                        &self.transformer,
                        &self.json["diffusers_config"],
                        6,
                    ),
                    (
                        "vae",
                        "diffusion_pytorch_model",
                        &self.vae,
                        &self.common["vae"]["diffusers_config"],
                        1,
                    ),
                    (
                        "text_encoder",
                        "model",
                        &self.text,
                        &self.common["text"]["diffusers_config"],
                        5,
                    ),
                    (
                        "image_encoder",
                        "model",
                        &self.clip,
                        &self.common["clip"]["diffusers_config"],
                        1,
                    ),
                ];
                for (name, stem, tensors, json, shards) in parts {
                    if name == "image_encoder" && !self.takes_image {
                        continue;
                    }
                    let folder = inside(name);
                    config(&folder, json);
                    if form == Form::DiffusersSharded && shards > 1 {
                        sharded(&folder, stem, tensors, shards, true);
                    } else {
                        let dtype = if name == "vae" { "F32" } else { "BF16" };
                        let path = folder.join(format!("{stem}.safetensors"));
                        safetensors(&path, tensors, |_, _| dtype);
                    }
                }
                fs::write(inside("tokenizer").join("spiece.model"), "").unwrap();
                fs::write(folder.join("model_index.json"), pipeline(&self.name)).unwrap();
                folder
            }
            Form::Official => {
                config(&folder, &self.json["official_config"]);
                let skyreels = self.name.starts_with("SkyReels");
                match (skyreels, self.name.contains("1.3B")) {
                    (true, true) => {
                        let path = folder.join("model.safetensors");
                        safetensors(&path, &self.transformer, |_, _| "F32");
                    }
                    (false, true) => {
                        let path = folder.join("diffusion_pytorch_model.safetensors");
                        safetensors(&path, &self.transformer, |_, _| "F32");
                    }
                    (true, false) => sharded(&folder, "model", &self.transformer, 12, false),
                    (false, false) => {
                        sharded(&folder, "diffusion_pytorch_model", &self.transformer, 7, true);
                    }
                }
                pth(&folder.join("Wan2.1_VAE.pth"), &self.vae, "FloatStorage");
                let text = folder.join("models_t5_umt5-xxl-enc-bf16.pth");
                pth(&text, &self.text, "BFloat16Storage");
                if self.takes_image {
                    let name = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth";
                    pth(&folder.join(name), &self.clip, "HalfStorage");
                }
                fs::write(inside("google/umt5-xxl").join("spiece.model"), "").unwrap();
                folder
            }
            Form::ComfyUi { .. } | Form::Gguf(_) => {
                let unet = inside("diffusion_models");
                let path = match form {
                    Form::Gguf(format) => {
                        let path = unet.join(format!("{}-{format}.gguf", self.name));
                        gguf(&path, &self.transformer, format);
                        let text = inside("text_encoders").join("umt5-xxl-encoder.gguf");
                        gguf(&text, &self.text, format);
                        fs::write(inside("text_encoders").join("spiece.model"), "").unwrap();
                        fs::write(inside("tokenizer").join("spiece.model"), "").unwrap();
                        fs::write(inside("diffusion_models").join("spiece.model"), "").unwrap();
                        path
                    }
                    _ => {
                        let prefixed = form == Form::ComfyUi { prefixed: true };
                        let prefix = if prefixed { "model.diffusion_model." } else { "" };
                        let add =
                            |(name, shape): &Tensor| (format!("{prefix}{name}"), shape.clone());
                        let tensors: Vec<Tensor> = self.transformer.iter().map(add).collect();
                        let path = unet.join(format!("{}_fp8_e4m3fn.safetensors", self.name));
                        safetensors(&path, &tensors, matrices_in_fp8);
                        let name = "umt5_xxl_fp8_e4m3fn_scaled.safetensors";
                        let text = inside("text_encoders").join(name);
                        safetensors(&text, &scaled(&self.text), matrices_in_fp8);
                        path
                    }
                };
                let vae = inside("vae").join("wan_2.1_vae.safetensors");
                safetensors(&vae, &self.vae, |_, _| "BF16");
                if self.takes_image {
                    let clip = inside("clip_vision").join("clip_vision_h.safetensors");
                    safetensors(&clip, &self.clip, |_, _| "F16");
                }
                path
            }
        }
    }
}

fn matrices_in_fp8(name: &str, shape: &[usize]) -> &'static str {
    match name {
        "spiece_model" => "U8",
        _ if shape.len() == 2 && !name.contains("relative_attention_bias") => "F8_E4M3",
        _ => "F32",
    }
}

/// As ComfyUI writes scaled fp8, with the tokenizer inside.
fn scaled(text: &[Tensor]) -> Vec<Tensor> {
    let mut tensors = text.to_vec();
    for (name, shape) in text {
        if matrices_in_fp8(name, shape) == "F8_E4M3" {
            tensors.push((name.replace(".weight", ".scale_weight"), vec![]));
        }
    }
    tensors.push(("scaled_fp8".into(), vec![2]));
    tensors.push(("spiece_model".into(), vec![4000]));
    tensors
}

fn pipeline(name: &str) -> String {
    let class = match name {
        _ if name.starts_with("SkyReels-V2-DF") => "SkyReelsV2DiffusionForcingPipeline",
        _ if name.starts_with("SkyReels-V2-T2V") => "SkyReelsV2Pipeline",
        _ if name.starts_with("SkyReels-V2-I2V") => "SkyReelsV2ImageToVideoPipeline",
        _ if name.starts_with("Wan2.1-T2V") => "WanPipeline",
        _ => "WanImageToVideoPipeline",
    };
    serde_json::json!({"_class_name": class, "_diffusers_version": "0.42.1"}).to_string()
}

/// Takes every tensor that the configuration asks for, each as a view into its file; no other may be left.
#[track_caller]
fn takes_all(mut source: TensorSource, expected: Vec<ExpectedTensor>) {
    let offered: Vec<String> = source.names().map(str::to_owned).collect();
    assert_eq!(offered.len(), expected.len());
    for (name, shape) in &expected {
        assert_eq!(source.take(name, shape).unwrap().shape(), shape);
    }
    source.finish().unwrap();
}

#[test]
fn expected_tensors_are_those_of_the_reference_classes() {
    let content = layouts_json("models.json");
    let models = published_models();
    assert_eq!(models.len(), content["models"].as_object().unwrap().len());
    for model in models {
        let recorded = &content["models"][model.name];
        assert_eq!(
            by_name(model.transformer.expected_tensors()),
            by_name(list(recorded["diffusers"].as_str().unwrap())),
            "{}",
            model.name
        );
        let config = recorded["diffusers_config"].to_string();
        let config = longreel_weights::TransformerConfig::from_json(&config).unwrap();
        assert_eq!(config, model.transformer, "{}", model.name);
    }
    let vae = longreel_weights::VaeConfig::from_json("{}").unwrap();
    assert_eq!(by_name(vae.expected_tensors()), by_name(list("vae.diffusers")));
    let mut text = by_name(list("text.diffusers"));
    // The same tensor a second time.
    text.remove("encoder.embed_tokens.weight").unwrap();
    assert_eq!(by_name(published_text_encoder().expected_tensors()), text);
    let clip = list("clip.diffusers").into_iter();
    let clip = clip.map(|(name, shape)| (format!("vision_model.{name}"), shape));
    assert_eq!(by_name(published_image_encoder().expected_tensors()), by_name(clip));
}

#[test]
fn expected_tensors_of_unusual_sizes_are_those_of_the_reference_classes() {
    let cases = layouts_json("odd.json");
    let mut seen = BTreeMap::new();
    for case in cases.as_array().unwrap() {
        let config = case["config"].to_string();
        let component = case["component"].as_str().unwrap();
        let mut recorded: BTreeMap<String, Vec<usize>> =
            serde_json::from_value(case["tensors"].clone()).unwrap();
        let expected = match component {
            "transformer" => {
                longreel_weights::TransformerConfig::from_json(&config).unwrap().expected_tensors()
            }
            "vae" => longreel_weights::VaeConfig::from_json(&config).unwrap().expected_tensors(),
            "text" => {
                recorded.remove("encoder.embed_tokens.weight");
                longreel_weights::TextConfig::from_json(&config).unwrap().expected_tensors()
            }
            _ => {
                let names = recorded.into_iter().map(|(n, s)| (format!("vision_model.{n}"), s));
                recorded = names.collect();
                longreel_weights::ClipVisionConfig::from_json(&config).unwrap().expected_tensors()
            }
        };
        assert_eq!(by_name(expected), recorded, "{config}");
        *seen.entry(component.to_owned()).or_insert(0) += 1;
    }
    assert_eq!(seen.values().sum::<i32>(), 8, "{seen:?}");
}

fn every_tensor_of_every_model(form: Form) {
    let content = layouts_json("models.json");
    for published in published_models() {
        let model = Model::new(&content, published.name, form);
        let root = TempDir::new().unwrap();
        let path = model.write(root.path(), form);
        let label = format!("{} as {form:?}", published.name);
        let opened = ModelFolder::open(&path).unwrap_or_else(|e| panic!("{label}: {e}"));
        assert_eq!(opened.kind(), published.kind, "{label}");
        assert_eq!(opened.family(), published.family, "{label}");
        let layout = if form.is_diffusers() { Layout::Diffusers } else { Layout::Files };
        assert_eq!(opened.layout(), layout, "{label}");
        assert_eq!(opened.transformer_config(), &published.transformer, "{label}");
        assert_eq!(opened.text_config(), &published_text_encoder(), "{label}");

        let (config, source) = opened.transformer().unwrap();
        takes_all(source, config.expected_tensors());
        let (config, source) = opened.vae().unwrap();
        takes_all(source, config.expected_tensors());
        let (config, source) = opened.text_encoder().unwrap();
        takes_all(source, config.expected_tensors());
        match opened.image_encoder().unwrap() {
            None => assert!(!published.kind.takes_image(), "{label}"),
            Some((config, source)) => {
                assert_eq!(config, published_image_encoder(), "{label}");
                takes_all(source, config.expected_tensors());
            }
        }
        assert_eq!(opened.tokenizer().is_ok(), !matches!(form, Form::ComfyUi { .. }), "{label}");
        assert_eq!(
            opened.embedded_spiece().map(<[u8]>::len),
            matches!(form, Form::ComfyUi { .. }).then_some(4000),
            "{label}"
        );

        let report = inspect(&path).unwrap();
        assert_eq!(report.problems, Vec::<String>::new(), "{label}");
        assert!(report.same_sizes_as.iter().any(|n| n == published.name), "{label}: {report}");
        assert_eq!(report.parameters, opened.parameters(), "{label}");
        let transformer = &report.components[0];
        let billions = transformer.parameters as f64 / 1e9;
        let range = if published.name.contains("1.3B") { 1.3..1.7 } else { 14.0..16.6 };
        assert!(range.contains(&billions), "{label}: {billions} B");
        assert_eq!(
            report.memory_bytes,
            (opened.transformer_bytes() + opened.vae_bytes()).max(opened.text_encoder_bytes()),
            "{label}"
        );
    }
}

#[test]
fn every_published_model_is_read_from_a_diffusers_folder_of_single_files() {
    every_tensor_of_every_model(Form::DiffusersSingle);
}

#[test]
fn every_published_model_is_read_from_a_diffusers_folder_of_shards() {
    every_tensor_of_every_model(Form::DiffusersSharded);
}

#[test]
fn every_published_model_is_read_from_its_official_folder() {
    every_tensor_of_every_model(Form::Official);
}

#[test]
fn every_published_model_is_read_from_comfyui_files_without_prefix() {
    every_tensor_of_every_model(Form::ComfyUi { prefixed: false });
}

#[test]
fn every_published_model_is_read_from_comfyui_files_with_prefix() {
    every_tensor_of_every_model(Form::ComfyUi { prefixed: true });
}

#[test]
fn every_published_model_is_read_from_gguf() {
    every_tensor_of_every_model(Form::Gguf("Q4_K"));
}

#[test]
fn every_gguf_format_is_read() {
    let content = layouts_json("models.json");
    for format in ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_0"] {
        let form = Form::Gguf(format);
        let model = Model::new(&content, "SkyReels-V2-DF-1.3B-540P", form);
        let root = TempDir::new().unwrap();
        let path = model.write(root.path(), form);
        let report = inspect(&path).unwrap();
        assert!(report.problems.is_empty(), "{format}: {report}");
        let most = report.components[0].dtypes.iter().max_by_key(|(_, count)| **count).unwrap();
        assert_eq!(most.0.to_lowercase(), format.to_lowercase());
        let (config, source) = ModelFolder::open(&path).unwrap().transformer().unwrap();
        takes_all(source, config.expected_tensors());
    }
}

#[test]
fn a_missing_a_misshapen_and_a_surplus_tensor_are_named_in_every_layout() {
    let content = layouts_json("models.json");
    let name = "SkyReels-V2-I2V-1.3B-540P";
    for form in Form::ALL {
        let sound = Model::new(&content, name, form);
        type Part = (&'static str, fn(&mut Model) -> &mut Vec<Tensor>, usize);
        // Of each part one tensor in the middle: it is in every network of the kind.
        let parts: [Part; 4] = [
            ("transformer", |m| &mut m.transformer, 401),
            ("vae", |m| &mut m.vae, 60),
            ("text", |m| &mut m.text, 133),
            ("clip", |m| &mut m.clip, 200),
        ];
        for (part, tensors, at) in parts {
            let mut missing = sound.clone();
            let (gone, gone_shape) = tensors(&mut missing).remove(at);
            let mut misshapen = sound.clone();
            let (bent, shape) = &mut tensors(&mut misshapen)[at];
            let bent = bent.clone();
            shape[0] += 3;
            let bent_shape = shape.clone();
            let mut surplus = sound.clone();
            tensors(&mut surplus).push(("encoder.of_another.weight".into(), vec![8, 256]));
            let cases = [
                (
                    "missing",
                    missing,
                    vec!["is missing".to_owned(), format!("{gone_shape:?}")],
                    &gone,
                ),
                (
                    "misshapen",
                    misshapen,
                    vec!["has shape".to_owned(), format!("{bent_shape:?}")],
                    &bent,
                ),
                (
                    "surplus",
                    surplus,
                    vec!["belong to no part".to_owned(), "of_another".into()],
                    &gone,
                ),
            ];
            for (case, model, words, tensor) in cases {
                let label = format!("{case} {tensor} of the {part} as {form:?}");
                // Query, key and value of the official CLIP are one matrix; the message names a third.
                let words = if tensor.contains("to_qkv") { &words[..1] } else { &words[..] };
                let root = TempDir::new().unwrap();
                let path = model.write(root.path(), form);
                let error = ModelFolder::open(&path).unwrap_err().to_string();
                let problems = inspect(&path).unwrap().problems;
                assert_eq!(problems.first(), Some(&error), "{label}");
                for word in words {
                    assert!(error.contains(word), "{label}: {word:?} is not in {error}");
                }
                let ending = ending(form, part);
                assert!(error.contains(ending), "{label}: {ending} is not in {error}");
            }
        }
    }
}

/// How the part's file ends.
fn ending(form: Form, part: &str) -> &'static str {
    match (form, part) {
        (Form::Official, "vae" | "text" | "clip") => ".pth",
        (Form::Gguf(_), "transformer" | "text") => ".gguf",
        _ => ".safetensors",
    }
}

#[test]
fn a_missing_part_is_named_with_what_to_do() {
    let content = layouts_json("models.json");
    for form in [Form::DiffusersSingle, Form::Official, Form::ComfyUi { prefixed: false }] {
        let model = Model::new(&content, "Wan2.1-I2V-14B-480P", form);
        let root = TempDir::new().unwrap();
        let path = model.write(root.path(), form);
        let folder = root.path().join(&model.name);
        let parts: [(&str, &str); 3] = match form {
            Form::Official => [
                ("Wan2.1_VAE.pth", "VAE"),
                ("models_t5_umt5-xxl-enc-bf16.pth", "text encoder"),
                ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "image encoder"),
            ],
            Form::DiffusersSingle => [
                ("vae", "VAE"),
                ("text_encoder", "text encoder"),
                ("image_encoder", "image encoder"),
            ],
            _ => [
                ("vae", "VAE"),
                ("text_encoders", "text encoder"),
                ("clip_vision", "image encoder"),
            ],
        };
        for (file, part) in parts {
            let aside = root.path().join("aside");
            fs::rename(folder.join(file), &aside).unwrap();
            let report = inspect(&path).unwrap();
            let named = report.problems.iter().any(|p| p.contains(&format!("has no {part}")));
            assert!(named, "{form:?} without {file}: {:?}", report.problems);
            assert!(ModelFolder::open(&path).is_err(), "{form:?} without {file}");
            fs::rename(&aside, folder.join(file)).unwrap();
        }
        assert!(inspect(&path).unwrap().problems.is_empty());
    }
}

#[test]
fn a_missing_shard_is_named() {
    let content = layouts_json("models.json");
    for (form, name, file) in [
        (
            Form::DiffusersSharded,
            "Wan2.1-T2V-14B",
            "transformer/diffusion_pytorch_model-00003-of-00006.safetensors",
        ),
        (Form::Official, "SkyReels-V2-DF-14B-540P", "model-00007-of-00012.safetensors"),
        (Form::Official, "Wan2.1-T2V-14B", "diffusion_pytorch_model-00002-of-00007.safetensors"),
    ] {
        let root = TempDir::new().unwrap();
        let path = Model::new(&content, name, form).write(root.path(), form);
        fs::remove_file(path.join(file)).unwrap();
        let error = ModelFolder::open(&path).unwrap_err().to_string();
        let file = file.rsplit('/').next().unwrap();
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn clip_names_are_read_with_and_without_their_prefix_and_projection() {
    let content = layouts_json("models.json");
    let form = Form::ComfyUi { prefixed: false };
    for key in ["diffusers", "with_projection", "original"] {
        let mut model = Model::new(&content, "Wan2.1-FLF2V-14B-720P", form);
        model.clip = list(content["clip"][key].as_str().unwrap());
        if key == "with_projection" {
            // A buffer that older versions of transformers save.
            model.clip.push(("vision_model.embeddings.position_ids".into(), vec![1, 257]));
        }
        let root = TempDir::new().unwrap();
        let opened = ModelFolder::open(model.write(root.path(), form)).unwrap();
        let (config, source) = opened.image_encoder().unwrap().unwrap();
        takes_all(source, config.expected_tensors());
        assert_eq!(opened.kind(), ModelKind::FirstLastFrame);
        assert_eq!(opened.family(), Family::Wan);
    }
}

#[test]
fn a_checkpoint_of_all_networks_in_one_file_is_taken_apart() {
    let content = layouts_json("models.json");
    let form = Form::ComfyUi { prefixed: true };
    let model = Model::new(&content, "Wan2.1-I2V-14B-480P", form);
    let prefixed = |prefix: &str, tensors: &[Tensor]| -> Vec<Tensor> {
        tensors.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone())).collect()
    };
    let mut all = prefixed("model.diffusion_model.", &model.transformer);
    all.extend(prefixed("first_stage_model.", &model.vae));
    all.extend(prefixed("text_encoders.umt5xxl.transformer.", &model.text));
    all.extend(prefixed("clip_vision.", &model.clip));
    let root = TempDir::new().unwrap();
    let path = root.path().join("all_in_one.safetensors");
    fs::create_dir(root.path().join("tokenizer")).unwrap();
    fs::write(root.path().join("tokenizer/spiece.model"), "").unwrap();
    safetensors(&path, &all, |_, _| "BF16");
    let opened = ModelFolder::open(&path).unwrap();
    let (config, source) = opened.text_encoder().unwrap();
    takes_all(source, config.expected_tensors());
    all.push(("cond_stage_other.weight".into(), vec![3]));
    safetensors(&path, &all, |_, _| "BF16");
    let error = ModelFolder::open(&path).unwrap_err().to_string();
    assert!(error.contains("cond_stage_other.weight"), "{error}");
}
