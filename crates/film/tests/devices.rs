//! Several devices make the film that one makes, byte for byte.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{engine, fixture};
use longreel_film::{
    CacheChoice, Carry, DeviceChoice, Engine, EngineOptions, Event, FilmError, FilmPlan,
    FilmRequest, Leave, Length, Observer, Outputs, StartFrom, Stop, StopSignal, resume,
};
use longreel_kernels::Device;
use longreel_kernels::gpu::{Arg, Driver, Element, Gpu, GpuError, Launch, LinkKind};
use longreel_shim::{Shim, Watch, Watched};

/// Two segments with guidance and overlap, six rows of patches high.
fn request(engine: &Engine) -> FilmRequest {
    FilmRequest { steps: 3, guidance_scale: 4.0, ..common::request(engine, [48, 96], 29) }
}

type Change<'a> = &'a dyn Fn(&mut FilmRequest);

/// The film's bytes, and how its plan shares the work: groups, strips, decoders.
fn film(engine: &mut Engine, change: Change<'_>, folder: &Path) -> (Vec<u8>, [usize; 3]) {
    let mut request = request(engine);
    change(&mut request);
    let plan = engine.plan(&request).expect("a plan");
    let path = folder.join("film.mp4");
    let outputs = Outputs { overwrite: true, ..Outputs::new(&path) };
    engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {}).expect("a film");
    (std::fs::read(path).expect("a film"), shares(&plan))
}

fn shares(plan: &FilmPlan) -> [usize; 3] {
    let sharing = plan.summary().sharing;
    [sharing.groups, sharing.strips, usize::from(sharing.decoder)]
}

/// Segments that are as quickly denoised as they can be, and take longer to be decoded: a device for the
/// decoder alone pays.
fn quick(request: &mut FilmRequest) {
    (request.steps, request.guidance_scale) = (1, 1.0);
    request.length = Length::Frames(53);
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
        ("df", guided, &[(2, [2, 1, 0]), (3, [2, 1, 1]), (6, [2, 3, 0])][..]),
        ("df", unguided, &[(3, [1, 3, 0])]),
        ("df", causal, &[(6, [2, 3, 0])]),
        ("df", cached, &[(3, [1, 3, 0])]),
        ("i2v", image, &[(4, [2, 2, 0])]),
        ("df", &quick, &[(2, [1, 1, 1]), (4, [1, 3, 1])]),
    ] {
        let mut one = engine(model, 1);
        let (expected, sharing) = film(&mut one, change, folder.path());
        assert_eq!(sharing, [1, 1, 0]);
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
    assert_eq!((apart, together, apart_again), ([2, 1, 0], [1, 2, 0], [2, 1, 0]));
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
    // Of one segment, whose frames nobody can make beside the next one.
    let short = |r: &mut FilmRequest| r.length = Length::Frames(17);
    let heads = refused("df", 4, &short);
    assert!(heads.contains("--device") && heads.contains("3 attention heads"), "{heads}");
    assert!(heads.contains("give 3 of them"), "{heads}");
    let rows = refused("df", 3, &|r| {
        short(r);
        r.height = 32;
    });
    assert!(rows.contains("2 rows of patches") && rows.contains("give 2 of them"), "{rows}");
}

#[test]
fn a_decoder_of_its_own_changes_nothing_that_can_be_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = |devices: usize, name: &str| {
        let mut engine = engine("df", devices);
        let mut request = request(&engine);
        quick(&mut request);
        let plan = engine.plan(&request).expect("a plan");
        assert_eq!(shares(&plan)[2], devices - 1);
        let outputs = everything(folder.path(), name);
        let mut told = Vec::new();
        engine
            .run(&plan, &outputs, &StopSignal::default(), &mut |event: Event| match event {
                Event::Part { segment, frames, bytes, .. } => {
                    told.push(format!("part {segment} {frames} {bytes:?}"));
                }
                Event::Drift(drift) => told.push(format!("{drift:?}")),
                _ => {}
            })
            .expect("a film");
        (bytes_of(&outputs), told)
    };
    let (expected, told) = made(1, "one");
    let (files, also) = made(2, "two");
    assert!(told.len() >= 6, "several segments with their drift: {told:?}");
    assert_eq!(told, also);
    assert!(files == expected, "other files");
}

/// Every file that a film can leave.
fn everything(folder: &Path, name: &str) -> Outputs {
    let of = |ending: &str| folder.join(format!("{name}.{ending}"));
    Outputs {
        dump_latents: Some(of("latents.safetensors")),
        dump_frames: Some(of("frames.safetensors")),
        contact_sheet: Some(of("png")),
        live: true,
        ..Outputs::new(of("mp4"))
    }
}

/// Their bytes; of the film those behind its head, which says by what command it was made.
fn bytes_of(outputs: &Outputs) -> Vec<Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let film = read(&outputs.film);
    let at = film.windows(4).position(|four| four == b"moof").expect("a fragment");
    let more = [&outputs.dump_latents, &outputs.dump_frames, &outputs.contact_sheet];
    let more = more.into_iter().flatten().map(|path| read(path));
    [film[at..].to_vec(), read(&outputs.drift_path()), read(&outputs.journal_path())]
        .into_iter()
        .chain(more)
        .collect()
}

#[test]
fn a_film_stopped_anywhere_beside_its_decoder_goes_on_as_if_nothing_had_been() {
    let folder = tempfile::tempdir().expect("a folder");
    let slow = |request: &mut FilmRequest| {
        quick(request);
        request.steps = 2;
    };
    let run = |outputs: &Outputs, stop: &StopSignal, observer: &mut dyn FnMut(&Event)| {
        let mut engine = engine("df", 2);
        let mut request = request(&engine);
        slow(&mut request);
        let plan = engine.plan(&request).expect("a plan");
        assert_eq!(shares(&plan), [1, 1, 1]);
        engine.run(&plan, outputs, stop, &mut |event: Event| observer(&event)).expect("a film")
    };
    let whole = everything(folder.path(), "whole");
    run(&whole, &StopSignal::default(), &mut |_| {});
    let expected = bytes_of(&whole);
    for how in [Stop::AfterSegment, Stop::Now] {
        for at in [0, 1, 2, 3, 5] {
            let outputs = everything(folder.path(), &format!("stopped-{}-{at}", how as u8));
            let stop = StopSignal::default();
            let mut steps = 0;
            let mut observer = |event: &Event| {
                if let Event::Step { .. } = event {
                    if steps == at {
                        stop.request(how);
                    }
                    steps += 1;
                }
            };
            assert!(run(&outputs, &stop, &mut observer).stopped, "{how:?} at {at}");
            let never = StopSignal::default();
            resume(&outputs.film, None, &never, &mut |_: Event| {}).expect("the rest");
            assert!(bytes_of(&outputs) == expected, "another film: {how:?} at {at}");
        }
    }
}

/// Gives leave for a segment when the one before was told of, as the service does.
struct OneAfterAnother {
    told: usize,
    waited: usize,
}

impl Observer for OneAfterAnother {
    fn event(&mut self, event: Event) {
        if let Event::Part { segment, .. } = event {
            assert_eq!(segment, self.told, "parts come in order");
            self.told += 1;
        }
    }

    fn leave(&mut self, segment: usize, wait: bool) -> Leave {
        match segment <= self.told {
            true => Leave::Given(None),
            false => {
                assert!(!wait, "nobody will give leave for {segment} any more");
                self.waited += 1;
                Leave::NotYet
            }
        }
    }
}

#[test]
fn whoever_gives_leave_after_each_part_is_told_of_the_part_before_he_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let (expected, _) = film(&mut engine("df", 1), &quick, folder.path());
    let mut two = engine("df", 2);
    let mut request = request(&two);
    quick(&mut request);
    let plan = two.plan(&request).expect("a plan");
    let path = folder.path().join("leave.mp4");
    let mut observer = OneAfterAnother { told: 0, waited: 0 };
    two.run(&plan, &Outputs::new(&path), &StopSignal::default(), &mut observer).expect("a film");
    assert_eq!(Some(observer.told), plan.segments());
    assert!(std::fs::read(path).expect("a film") == expected, "another film");
}

#[test]
fn frames_carried_as_pixels_have_no_decoder_beside() {
    let engine = engine("df", 3);
    let mut request = request(&engine);
    quick(&mut request);
    request.carry = Carry::Pixels;
    let plan = engine.plan(&request).expect("a plan");
    assert_eq!(shares(&plan)[2], 0);
    let text = plan.summary().to_string();
    assert!(text.contains("no device can decode beside the others"), "{text}");
}

/// What is done before each launch, which fails where that does.
type Before = Box<dyn Fn() -> Result<(), GpuError> + Send + Sync>;

struct Launches(Before);

impl Watch for Launches {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        (self.0)()?;
        shim.launch(launch, args)
    }
}

fn watched(shim: Shim, before: Before) -> Watched<Launches> {
    Watched::new(shim, Arc::new(Launches(before)))
}

/// Fails for good after so many launches.
fn failing_after(launches: usize) -> Before {
    let left = AtomicUsize::new(launches);
    Box::new(move || {
        let one = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        let reason = "it fell off the bus".into();
        one.map(|_| ()).map_err(|_| GpuError::Call { call: "launch", reason })
    })
}

#[test]
fn gpus_share_a_film_and_one_that_fails_ends_it_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let shim = || Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let gpu = |driver: Box<dyn Driver>| Device::Gpu(Gpu::new(driver, Element::Bf16));
    let good = || Some(gpu(Box::new(shim()?)));
    let failing = |launches| Some(gpu(Box::new(watched(shim()?, failing_after(launches)))));
    let (Some(one), Some(first), Some(second)) = (good(), good(), good()) else { return };
    // Both passes of guidance in strips, and each on a device of its own.
    for (guidance, sharing) in [(1.0, [1, 2, 0]), (4.0, [2, 1, 0])] {
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

#[test]
fn gpus_that_reach_each_other_make_the_film_of_one_and_say_which_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let gpu = |link: Option<LinkKind>| {
        let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let shim = link.into_iter().fold(shim, Shim::with_link);
        Some(Device::Gpu(Gpu::new(Box::new(shim), Element::Bf16)))
    };
    let small: Change<'_> = &|r| {
        (r.width, r.height, r.length) = (32, 32, Length::Frames(1));
        (r.base_num_frames, r.steps, r.guidance_scale) = (5, 1, 1.0);
    };
    let Some(one) = gpu(None) else { return };
    let (expected, _) = film(&mut engine("t2v", 1).on(vec![one]), small, folder.path());
    for (link, way) in
        [(Some(LinkKind::Peer), "copies from shim to shim"), (None, "the host's memory")]
    {
        let devices = [(); 2].map(|()| gpu(link).expect("as before"));
        let mut engine = engine("t2v", 1).on(devices.into());
        let mut request = request(&engine);
        small(&mut request);
        let plan = engine.plan(&request).expect("a plan");
        assert_eq!(shares(&plan), [1, 2, 0]);
        let outputs = Outputs { overwrite: true, ..Outputs::new(folder.path().join("linked.mp4")) };
        let mut told = Vec::new();
        let mut observer = |event: Event| match event {
            Event::Stage { what } => told.push(what),
            Event::Warning { message } => panic!("{message}"),
            _ => {}
        };
        engine.run(&plan, &outputs, &StopSignal::default(), &mut observer).expect("a film");
        assert!(std::fs::read(&outputs.film).expect("a film") == expected, "another film by {way}");
        let way = format!("exchanging between devices by {way}");
        assert!(told.contains(&way), "{way}: {told:?}");
    }
}

/// Two segments of a picture as small as can be.
fn two_segments(request: &mut FilmRequest) {
    quick(request);
    (request.width, request.height, request.length) = (16, 16, Length::Frames(13));
    (request.base_num_frames, request.overlap_history) = (9, 5);
}

#[test]
fn a_gpu_decodes_a_segment_while_another_one_denoises_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let shim = || Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let gpu = |driver: Box<dyn Driver>| Device::Gpu(Gpu::new(driver, Element::F32));
    let (Some(alone), Some(first), Some(second)) = (shim(), shim(), shim()) else { return };
    let alone = gpu(Box::new(alone));
    let (expected, _) = film(&mut engine("df", 1).on(vec![alone]), &two_segments, folder.path());
    // The decoder does not begin before a step of the next segment is done.
    let (step_done, wait) = std::sync::mpsc::channel();
    let wait = Mutex::new(Some(wait));
    let before = move || {
        if let Some(wait) = wait.lock().expect("no panic").take() {
            let waited = wait.recv_timeout(std::time::Duration::from_secs(120));
            waited.expect("the next segment is denoised meanwhile");
        }
        Ok(())
    };
    let devices = vec![gpu(Box::new(first)), gpu(Box::new(watched(second, Box::new(before))))];
    let mut engine = engine("df", 2).on(devices);
    let mut request = request(&engine);
    two_segments(&mut request);
    let plan = engine.plan(&request).expect("a plan");
    assert_eq!((shares(&plan), plan.segments()), ([1, 1, 1], Some(2)));
    let path = folder.path().join("beside.mp4");
    let mut observer = |event: Event| {
        if let Event::Step { segment: 1, .. } = event {
            let _ = step_done.send(());
        }
    };
    engine.run(&plan, &Outputs::new(&path), &StopSignal::default(), &mut observer).expect("a film");
    assert!(std::fs::read(path).expect("a film") == expected, "another film");
}

#[test]
fn a_decoder_that_fails_ends_the_film_with_its_reason_and_what_was_made_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let shim = || Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let gpu = |driver: Box<dyn Driver>| Device::Gpu(Gpu::new(driver, Element::F32));
    let Some(counted) = shim() else { return };
    // Launches of the decoder for the first segment, and for the whole film.
    let launches = Arc::new(AtomicUsize::new(0));
    let count = launches.clone();
    let before = move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let run = |decoder: Watched<Launches>, observer: &mut dyn FnMut(Event), path: &Path| {
        let first = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("as before");
        let devices = vec![gpu(Box::new(first)), gpu(Box::new(decoder))];
        let mut engine = engine("df", 2).on(devices);
        let mut request = request(&engine);
        two_segments(&mut request);
        let plan = engine.plan(&request).expect("a plan");
        let never = StopSignal::default();
        let outputs = Outputs::new(path);
        let made = engine.run(&plan, &outputs, &never, &mut |event: Event| observer(event));
        made.map_err(Box::new)
    };
    let whole = folder.path().join("whole.mp4");
    run(watched(counted, Box::new(before)), &mut |_| {}, &whole).expect("a film");
    let all = launches.load(Ordering::Relaxed);
    for left in [0, all / 3, all - 1] {
        let path = folder.path().join(format!("after-{left}.mp4"));
        let decoder = watched(shim().expect("as before"), failing_after(left));
        let mut parts = 0;
        let mut observer = |event: Event| parts += usize::from(matches!(event, Event::Part { .. }));
        let error = run(decoder, &mut observer, &path).expect_err("fails");
        assert!(error.to_string().contains("fell off the bus"), "{error}");
        assert!(FilmError::gpu(&error).is_some(), "{error}");
        // The last launch is of the second segment, and the first one is safe by then.
        assert_eq!(parts, usize::from(left == all - 1), "{left} of {all} launches");
        if parts > 0 {
            let devices = (0..2).map(|_| gpu(Box::new(shim().expect("as before")))).collect();
            let never = StopSignal::default();
            engine("df", 2)
                .on(devices)
                .resume(&path, &never, &mut |_: Event| {})
                .expect("the rest");
            let read = |path: &Path| std::fs::read(path).expect("a film");
            let frames = |film: Vec<u8>| {
                let at = film.windows(4).position(|four| four == b"moof").expect("a fragment");
                film[at..].to_vec()
            };
            assert!(frames(read(&path)) == frames(read(&whole)), "another film");
        }
    }
}

/// Where a file is mapped, once for each mapping.
#[cfg(target_os = "linux")]
fn mappings_of(file: &Path) -> Vec<std::ops::Range<usize>> {
    let file = file.canonicalize().expect("it is there");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("this process");
    let mapping = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        rest.ends_with(file.to_str()?).then_some(address(start)?..address(end)?)
    };
    maps.lines().filter_map(mapping).collect()
}

/// Where in the host's memory uploads came from, and how many bytes they were.
#[cfg(target_os = "linux")]
#[derive(Default)]
struct Uploads(Mutex<Vec<(usize, usize)>>);

#[cfg(target_os = "linux")]
impl Watch for Uploads {
    fn upload(&self, bytes: &[u8]) {
        self.0.lock().expect("no panic").push((bytes.as_ptr() as usize, bytes.len()));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn cards_of_a_process_bring_each_weight_from_one_mapping_of_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    // A name of its own: other tests of this process map the fixture.
    let copied = folder.path().join("model");
    copy(&fixture("models/df"), &copied);
    let file = copied.join("transformer/diffusion_pytorch_model.safetensors");
    let shim = || Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let (Some(first), Some(second)) = (shim(), shim()) else { return };
    let uploads = [(); 2].map(|()| Arc::new(Uploads::default()));
    let gpus = [first, second].into_iter().zip(&uploads).map(|(shim, uploads)| {
        let driver = Watched::new(shim, Arc::clone(uploads));
        Device::Gpu(Gpu::new(Box::new(driver), Element::F32))
    });
    let options = EngineOptions { device: DeviceChoice::Cpu(2), ..EngineOptions::new(&copied) };
    let mut engine = Engine::open(&options).expect("a model").on(gpus.collect());
    let mut request = request(&engine);
    two_segments(&mut request);
    // One segment, denoised by both in strips.
    (request.height, request.length) = (32, Length::Frames(5));
    request.guidance_scale = 4.0;
    let plan = engine.plan(&request).expect("a plan");
    assert_eq!(shares(&plan), [2, 1, 0]);
    let outputs = Outputs::new(folder.path().join("film.mp4"));
    engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {}).expect("a film");
    let mappings = mappings_of(&file);
    let [mapping] = &mappings[..] else { panic!("{} mappings", mappings.len()) };
    let [first, second] = uploads.map(|uploads| {
        let uploads = uploads.0.lock().expect("no panic");
        let from_file = uploads.iter().filter(|(start, _)| mapping.contains(start));
        let mut from_file: Vec<_> = from_file.copied().collect();
        from_file.sort_unstable();
        from_file
    });
    let bytes: usize = first.iter().map(|(_, bytes)| bytes).sum();
    let size = std::fs::metadata(&file).expect("a file").len() as usize;
    assert!(bytes > size / 2 && bytes < size, "{bytes} bytes of {size}, each of them once");
    assert_eq!(first, second, "the other card's come from elsewhere");
}

#[cfg(target_os = "linux")]
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("writable");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), &to).expect("writable")),
        }
    }
}
