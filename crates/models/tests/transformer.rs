//! The transformer against diffusers, and what holds of it by itself.

mod common;

use common::{
    Fixture, On, OnHost, TOLERANCE, assert_close, assert_same_bits, devices, distance, noise,
};
use longreel_kernels::Tensor;
use longreel_models::{Context, ContextOptions, ForwardOptions, ModelError, Transformer};

struct Case {
    name: String,
    latents: Tensor,
    timesteps: Vec<f32>,
    text: Tensor,
    image: Option<Tensor>,
    padded_tokens: usize,
    options: ForwardOptions,
}

fn cases(fixture: &Fixture) -> Vec<Case> {
    let read = |case: &serde_json::Value| {
        let name = case["name"].as_str().unwrap().to_owned();
        let tensor = |what: &str| format!("{name}.{what}");
        let image_name = tensor("encoder_hidden_states_image");
        let image = fixture.has(&image_name).then(|| {
            // Two images are two samples in the reference, and one run of tokens here.
            let image = fixture.tensor(&image_name);
            let (tokens, dim) = (image.dim(0) * image.dim(1), image.dim(2));
            image.reshape(&[tokens, dim])
        });
        let number = |key: &str| case[key].as_u64().map(|n| n as usize);
        Case {
            latents: fixture.latents(&tensor("hidden_states")),
            timesteps: fixture.tensor(&tensor("timestep")).into_vec(),
            text: fixture.sample(&tensor("encoder_hidden_states")),
            image,
            padded_tokens: number("text_length").unwrap(),
            options: ForwardOptions {
                fps: number("fps_index").map(|index| if index == 0 { 16 } else { 24 }),
                // The reference counts 1 as no blocks.
                causal_block: number("num_frame_per_block").filter(|&block| block > 1),
                ..ForwardOptions::default()
            },
            name,
        }
    };
    fixture.cases.iter().map(read).collect()
}

fn open(name: &str) -> (Fixture, Transformer) {
    let fixture = Fixture::open(name);
    let model = Transformer::load(&fixture.config(), fixture.source()).expect(name);
    (fixture, model)
}

fn context(model: &Transformer, case: &Case) -> Context {
    let options = ContextOptions { padded_tokens: case.padded_tokens };
    model.context(&case.text, case.image.as_ref(), &options).expect("context")
}

fn check(name: &str) {
    for On { name: place, device, tolerance } in devices() {
        let (fixture, model) = open(name);
        let model = model.on(&device);
        for case in cases(&fixture) {
            let context = context(&model, &case);
            let out = model
                .forward(&case.latents, &case.timesteps, &context, &case.options)
                .unwrap()
                .on_host();
            let reference = fixture.latents(&format!("{}.output", case.name));
            assert_close(&format!("{name}/{} on {place}", case.name), &out, &reference, tolerance);
        }
    }
}

#[test]
fn diffusion_forcing_equals_the_reference() {
    check("transformer_df");
    check("transformer_df_plain");
}

#[test]
fn text_to_video_equals_the_reference() {
    check("transformer_t2v");
    check("transformer_wan_t2v");
}

#[test]
fn image_to_video_equals_the_reference() {
    check("transformer_i2v");
    check("transformer_wan_i2v");
}

#[test]
fn first_and_last_frame_equals_the_reference() {
    check("transformer_i2v_two_images");
    check("transformer_wan_flf2v");
}

#[test]
fn time_embedding_equals_the_reference() {
    for name in ["transformer_df", "transformer_wan_t2v"] {
        let (fixture, model) = open(name);
        for case in cases(&fixture) {
            if !fixture.has(&format!("{}.inner.temb", case.name)) {
                continue;
            }
            let pass = model.begin(&case.latents, &case.timesteps, &case.options).unwrap();
            let reference = fixture.tensor(&format!("{}.inner.temb", case.name));
            let shape = [reference.len() / model.dim(), model.dim()];
            let what = format!("{name}/{} temb", case.name);
            // Wan computes frequencies in f32, and PyTorch's exponential is off by one bit in a few of
            // them; at timestep 937 that moves an angle by 6e-6.
            let tolerance = if name.contains("wan") { 5e-6 } else { 1e-6 };
            assert_close(&what, pass.temb(), &reference.reshape(&shape), tolerance);
        }
    }
}

/// The reference attends to every zero row; we attend to one with their number as its weight.
#[test]
fn one_weighted_key_stands_for_the_padding() {
    let (fixture, model) = open("transformer_t2v");
    let case = cases(&fixture).swap_remove(0);
    let run = |text: &Tensor| {
        let options = ContextOptions { padded_tokens: 512 };
        let context = model.context(text, None, &options).unwrap();
        model.forward(&case.latents, &case.timesteps, &context, &case.options).unwrap().on_host()
    };
    let short = run(&case.text);
    let rest = Tensor::zeros(&[512 - case.text.dim(0), case.text.dim(1)]);
    let padded = run(&Tensor::concat0(&[&case.text, &rest]));
    let distance = distance(short.data(), padded.data());
    // Sums of 500 equal terms in f32 on one side, one product on the other.
    assert!(distance < TOLERANCE, "padded text differs by {distance:.1e}");
}

#[test]
fn equal_timesteps_are_one_row() {
    let (fixture, model) = open("transformer_df");
    let case = cases(&fixture).swap_remove(0);
    let context = context(&model, &case);
    let run = |timesteps: &[f32]| {
        let pass = model.begin(&case.latents, timesteps, &case.options).unwrap();
        assert_eq!(pass.temb().dim(0), 1);
        model.forward(&case.latents, timesteps, &context, &case.options).unwrap().on_host()
    };
    assert_same_bits("one row", &run(&[500.0]), &run(&[500.0; 4]));
}

#[test]
fn an_added_residual_replaces_the_blocks() {
    let (fixture, model) = open("transformer_df");
    let case = cases(&fixture).swap_remove(0);
    let context = context(&model, &case);
    let begin = || model.begin(&case.latents, &case.timesteps, &case.options).unwrap();
    let mut run = begin();
    let residual = run.run_blocks_keeping_residual(&context).unwrap();
    let mut reused = begin();
    reused.add_residual(&residual).unwrap();
    // Subtracting and adding again rounds twice.
    assert_close("residual", &reused.finish(), &run.finish(), 1e-6);
    let wrong = Tensor::zeros(&[1, model.dim()]);
    assert!(matches!(begin().add_residual(&wrong), Err(ModelError::Input { .. })));
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let (fixture, model) = open("transformer_df");
    let case = cases(&fixture).swap_remove(0);
    let context = context(&model, &case);
    let message = |latents: &[usize], timesteps: &[f32], options: &ForwardOptions| {
        let latents = noise(1, latents);
        model.forward(&latents, timesteps, &context, options).unwrap_err().to_string()
    };
    let good = case.options;
    assert!(message(&[2, 15, 4, 4], &[1.0], &good).contains("[T, 16, H, W]"));
    assert!(message(&[2, 16, 5, 4], &[1.0], &good).contains("multiple of 2"));
    assert!(message(&[2, 16, 4, 4], &[1.0; 3], &good).contains("latent frames, 2"));
    assert!(message(&[2, 16, 4, 4], &[f32::NAN], &good).contains("finite"));
    assert!(message(&[2, 16, 4, 200], &[1.0], &good).contains("64"));
    let no_fps = ForwardOptions { fps: None, ..good };
    assert!(message(&[2, 16, 4, 4], &[1.0], &no_fps).contains("frame rate"));
    let no_block = ForwardOptions { causal_block: Some(0), ..good };
    assert!(message(&[2, 16, 4, 4], &[1.0], &no_block).contains("causal_block"));
    let long = noise(2, &[513, 40]);
    let error = model.context(&long, None, &ContextOptions::default()).unwrap_err();
    assert!(error.to_string().contains("512"), "{error}");
    let image = Some(&case.text);
    assert!(model.context(&case.text, image, &ContextOptions::default()).is_err());
}

#[test]
fn a_missing_a_misshapen_and_an_unknown_tensor_are_refused() {
    use longreel_weights::TensorSource;
    let fixture = Fixture::open("transformer_df");
    let load = |change: &dyn Fn(&mut std::collections::HashMap<_, _>)| {
        let mut weights = fixture.weights();
        change(&mut weights);
        Transformer::load(&fixture.config(), TensorSource::from_tensors(weights))
            .unwrap_err()
            .to_string()
    };
    let name = "blocks.1.ffn.net.2.weight";
    assert!(load(&|w| drop(w.remove(name))).contains(name));
    let small = longreel_kernels::Weight::from_f32(&[1, 1], &[0.0]);
    assert!(load(&|w| drop(w.insert(name.into(), small.clone()))).contains(name));
    assert!(load(&|w| drop(w.insert("blocks.9.extra".into(), small.clone()))).contains("blocks.9"));
}
