//! Several devices make the film that one makes, byte for byte.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use longreel_film::{
    CacheChoice, DeviceChoice, Engine, EngineOptions, Event, FilmError, FilmRequest, Length,
    Outputs, StartFrom, Stop, StopSignal, resume,
};
use longreel_kernels::Device;
use longreel_kernels::gpu::{Address, Arg, Driver, Element, Gpu, GpuError, Launch, MatMul, Stream};
use longreel_shim::Shim;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures").join(name)
}

fn engine(model: &str, processors: usize) -> Engine {
    let options = EngineOptions {
        device: DeviceChoice::Cpu(processors),
        ..EngineOptions::new(fixture("models").join(model))
    };
    Engine::open(&options).expect("a model")
}

/// Two segments with guidance and overlap, six rows of patches high.
fn request(engine: &Engine) -> FilmRequest {
    let mut request = engine.defaults(false).expect("defaults").request("a red circle");
    (request.width, request.height) = (48, 96);
    request.length = Length::Frames(29);
    (request.base_num_frames, request.overlap_history) = (17, 5);
    (request.steps, request.seed, request.guidance_scale) = (3, 7, 4.0);
    request
}

type Change<'a> = &'a dyn Fn(&mut FilmRequest);

/// The film's bytes, and how its plan shares the work.
fn film(engine: &mut Engine, change: Change<'_>, folder: &Path) -> (Vec<u8>, [usize; 2]) {
    let mut request = request(engine);
    change(&mut request);
    let plan = engine.plan(&request).expect("a plan");
    let path = folder.join("film.mp4");
    let outputs = Outputs { overwrite: true, ..Outputs::new(&path) };
    engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {}).expect("a film");
    let sharing = plan.summary().sharing;
    (std::fs::read(path).expect("a film"), [sharing.groups, sharing.strips])
}

#[test]
fn the_film_of_several_devices_is_the_one_of_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let guided: Change<'_> = &|_| {};
    let unguided: Change<'_> = &|r| r.guidance_scale = 1.0;
    // Finished blocks are kept, and each device keeps those of its heads.
    let causal: Change<'_> = &|r| {
        (r.causal_block_size, r.ar_step, r.base_num_frames) = (Some(2), 2, 21);
        r.length = Length::Frames(37);
    };
    let cached: Change<'_> = &|r| {
        (r.cache, r.steps) = (CacheChoice::EasyCache { threshold: 0.4 }, 14);
        r.length = Length::Frames(17);
    };
    let image: Change<'_> = &|r| {
        r.start = StartFrom::Image(fixture("films/df_image/first.png"));
        r.length = Length::Frames(9);
        r.base_num_frames = 9;
    };
    let mut films = Vec::new();
    for (model, change, shared) in [
        ("df", guided, &[(2, [2, 1]), (3, [1, 3]), (6, [2, 3])][..]),
        ("df", unguided, &[(3, [1, 3])]),
        ("df", causal, &[(6, [2, 3])]),
        ("df", cached, &[(3, [1, 3])]),
        ("i2v", image, &[(4, [2, 2])]),
    ] {
        let mut one = engine(model, 1);
        let (expected, sharing) = film(&mut one, change, folder.path());
        assert_eq!(sharing, [1, 1]);
        for (count, sharing) in shared {
            let mut several = engine(model, *count);
            let (made, by) = film(&mut several, change, folder.path());
            assert_eq!(by, *sharing, "{model} on {count}");
            assert!(made == expected, "{model} on {count}: another film");
        }
        films.push(expected);
    }
    assert!((1..films.len()).all(|i| !films[..i].contains(&films[i])), "a change without effect");
}

#[test]
fn an_engine_shares_each_film_as_its_plan_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine("t2v", 2);
    let short: Change<'_> = &|r| r.length = Length::Frames(17);
    let unguided: Change<'_> = &|r| (r.length, r.guidance_scale) = (Length::Frames(17), 1.0);
    let (first, apart) = film(&mut engine, short, folder.path());
    let (_, together) = film(&mut engine, unguided, folder.path());
    let (again, apart_again) = film(&mut engine, short, folder.path());
    assert_eq!((apart, together, apart_again), ([2, 1], [1, 2], [2, 1]));
    assert!(first == again, "another film");
}

#[test]
fn a_stopped_film_goes_on_by_other_devices_as_if_nothing_had_been() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, _) = film(&mut engine("df", 1), &|_| {}, folder.path());
    let path = folder.path().join("stopped.mp4");
    let stop = StopSignal::default();
    let stopper = stop.clone();
    let mut observer = |event: Event| {
        if let Event::Part { .. } = event {
            stopper.request(Stop::AfterSegment);
        }
    };
    let mut six = engine("df", 6);
    let plan = six.plan(&request(&six)).expect("a plan");
    let outcome = six.run(&plan, &Outputs::new(&path), &stop, &mut observer).expect("a part");
    assert!(outcome.stopped);
    let never = StopSignal::default();
    resume(&path, Some(DeviceChoice::Cpu(2)), &never, &mut |_: Event| {}).expect("the rest");
    assert!(std::fs::read(path).expect("a film") == whole, "another film");
}

#[test]
fn what_cannot_be_shared_out_is_refused_before_anything_is_loaded() {
    let refused = |model: &str, count, change: Change<'_>| {
        let engine = engine(model, count);
        let mut request = request(&engine);
        change(&mut request);
        engine.plan(&request).expect_err("refused").to_string()
    };
    let heads = refused("df", 4, &|_| {});
    assert!(heads.contains("--device") && heads.contains("3 attention heads"), "{heads}");
    assert!(heads.contains("give 3 of them"), "{heads}");
    let rows = refused("df", 3, &|r| r.height = 32);
    assert!(rows.contains("2 rows of patches") && rows.contains("give 2 of them"), "{rows}");
}

/// A shim that fails for good at a launch.
#[derive(Debug)]
struct Failing {
    shim: Shim,
    left: AtomicUsize,
}

impl Driver for Failing {
    fn name(&self) -> String {
        "a failing shim".into()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        self.shim.alloc(bytes)
    }

    fn free(&self, address: Address) {
        self.shim.free(address);
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        self.shim.memory()
    }

    fn upload(&self, stream: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        self.shim.upload(stream, to, bytes)
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.shim.download(from, bytes)
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        self.shim.copy(to, from, bytes)
    }

    fn zero(&self, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.shim.zero(to, bytes)
    }

    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        let left =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        match left {
            Ok(_) => self.shim.launch(launch, args),
            Err(_) => Err(GpuError::Call { call: "launch", reason: "it fell off the bus".into() }),
        }
    }

    fn matmul(&self, what: &MatMul) -> Result<bool, GpuError> {
        self.shim.matmul(what)
    }

    fn follow(&self, stream: Stream) -> Result<(), GpuError> {
        self.shim.follow(stream)
    }

    fn wait(&self) -> Result<(), GpuError> {
        self.shim.wait()
    }
}

#[test]
fn gpus_share_a_film_and_one_that_fails_ends_it_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let shim = || Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let gpu = |driver: Box<dyn Driver>| Device::Gpu(Gpu::new(driver, Element::Bf16));
    let good = || Some(gpu(Box::new(shim()?)));
    let failing = |launches| {
        let left = AtomicUsize::new(launches);
        Some(gpu(Box::new(Failing { shim: shim()?, left })))
    };
    let (Some(one), Some(first), Some(second)) = (good(), good(), good()) else { return };
    // Both passes of guidance in strips, and each on a device of its own.
    for (guidance, sharing) in [(1.0, [1, 2]), (4.0, [2, 1])] {
        let small: Change<'_> = &|r| {
            (r.width, r.height, r.length) = (32, 32, Length::Frames(1));
            (r.base_num_frames, r.steps, r.guidance_scale) = (5, 1, guidance);
        };
        let (expected, _) = film(&mut engine("t2v", 1).on(vec![one.clone()]), small, folder.path());
        let both = vec![first.clone(), second.clone()];
        let (made, by) = film(&mut engine("t2v", 1).on(both), small, folder.path());
        assert_eq!(by, sharing);
        assert!(made == expected, "another film with guidance {guidance}");
        for launches in [0, 40] {
            let devices = vec![first.clone(), failing(launches).expect("as before")];
            let mut engine = engine("t2v", 1).on(devices);
            let mut request = request(&engine);
            small(&mut request);
            let plan = engine.plan(&request).expect("a plan");
            let outputs = Outputs { overwrite: true, ..Outputs::new(folder.path().join("no.mp4")) };
            let never = StopSignal::default();
            let error = engine.run(&plan, &outputs, &never, &mut |_: Event| {}).expect_err("fails");
            assert!(error.to_string().contains("fell off the bus"), "{error}");
            assert!(FilmError::gpu(&error).is_some() && !error.is_bad_input(), "{error}");
        }
    }
}
