//! What a film's passes take of the time: arithmetic by the peak of what is multiplied, and on several GPUs what
//! they exchange.

use longreel_kernels::Products;
use serde::Serialize;

use super::ModelFacts;
use crate::device::GpuFacts;
use crate::estimate::{ForwardFlops, exchanged_bytes, probe_flops_per_second};
use crate::sharing::Sharing;

/// What a GPU is expected to reach of the peak of its products, and of its links. Not measured: `longreel bench`
/// does.
pub(super) const GPU_SHARE: f64 = 0.5;
/// And the processor of what its probe reaches: norms, memory traffic and the tail of each kernel cost about a third
/// on top of it.
const PROCESSOR_SHARE: f64 = 0.7;

/// What GPUs exchange in self-attention, where each has a strip of the picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExchangeSummary {
    /// How they are connected.
    pub way: &'static str,
    /// Bytes that leave each of them in the longest pass.
    pub bytes: u64,
    /// What a link carries each way, by the data sheet, in bytes a second.
    pub bytes_per_second: f64,
    /// Expected seconds of the film (of one segment, when endless).
    pub seconds: f64,
}

impl ModelFacts {
    /// Operations a second of one device by its data sheet or the probe, and what of them is expected.
    pub(super) fn rate(&self) -> (f64, f64) {
        match &self.gpu {
            Some(gpu) => (gpu.peak_flops, GPU_SHARE),
            None => (probe_flops_per_second(Products::F32), PROCESSOR_SHARE),
        }
    }

    /// Seconds that one device is expected to take for so much of the transformer with such products.
    pub(super) fn seconds(&self, flops: ForwardFlops, products: Products) -> f64 {
        let (rate, share) = self.rate();
        let same = match (&self.gpu, products) {
            // Layers alone multiply 8 bits, attention does not.
            (Some(GpuFacts { peak_flops, peak_8_bit_flops, .. }), Products::Fp8) => {
                flops.total() - flops.linear + flops.linear * peak_flops / peak_8_bit_flops
            }
            (Some(_), _) => flops.total(),
            (None, _) => flops.total() * rate / probe_flops_per_second(products),
        };
        same / (rate * share)
    }

    /// What each GPU of a group exchanges: in the longest pass, of `longest` tokens, and in all passes, of `tokens`
    /// together. Nothing where there is one, and between parts of the processor, whose memory is the same.
    pub(super) fn exchange(
        &self,
        sharing: Sharing,
        longest: usize,
        tokens: f64,
    ) -> Option<ExchangeSummary> {
        let link = self.gpu.as_ref()?.link?;
        let bytes = |tokens| exchanged_bytes(&self.transformer, tokens, sharing.strips);
        // Groups work side by side.
        let all = bytes(tokens) / sharing.groups as f64;
        (sharing.strips > 1).then(|| ExchangeSummary {
            way: link.way(),
            bytes: bytes(longest as f64) as u64,
            bytes_per_second: link.bytes_per_second,
            seconds: all / (link.bytes_per_second * GPU_SHARE),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use longreel_kernels::cuda::Connection;
    use longreel_weights::{WeightDtype, published_models};

    use super::*;
    use crate::device::{CardLink, HostLink};
    use crate::engine::{Engine, EngineOptions};
    use crate::plan::{Converted, PlanSummary, plan};
    use crate::request::Length;

    /// Bytes a second of a link that is as slow as the host's memory may be.
    const SLOW: f64 = 16e9;

    /// A plan of the 14B model at 540P for one segment, on so many GPUs that are connected so.
    fn planned(
        devices: usize,
        link: Option<CardLink>,
        guidance_scale: f32,
        converted: Option<Converted>,
    ) -> PlanSummary {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/df");
        let engine = Engine::open(&EngineOptions::new(tiny)).expect("a model");
        let name = "SkyReels-V2-DF-14B-540P";
        let published = published_models().into_iter().find(|m| m.name == name).expect(name);
        let facts = ModelFacts {
            transformer: published.transformer,
            gpu: Some(GpuFacts {
                name: "a card".into(),
                free_bytes: 80 << 30,
                peak_flops: 1e15,
                peak_8_bit_flops: 2e15,
                link,
                host: HostLink::Unknown,
            }),
            converted,
            devices,
            ..engine.facts().clone()
        };
        let mut request = engine.defaults(false).expect("defaults").request("a red circle");
        (request.width, request.height) = (960, 544);
        (request.base_num_frames, request.length) = (97, Length::Frames(97));
        (request.steps, request.guidance_scale) = (30, guidance_scale);
        plan(&request, &facts, false).expect("a plan").summary().clone()
    }

    fn link(bytes_per_second: f64) -> Option<CardLink> {
        Some(CardLink { connection: Connection::Pcie, bytes_per_second })
    }

    #[test]
    fn products_of_8_bits_take_the_time_of_their_own_rate_and_attention_that_of_bf16() {
        let converted = Converted { dtype: WeightDtype::Fp8, stored_bytes: 0, memory_bytes: 0 };
        let (plain, in_8_bits) =
            (planned(1, None, 1.0, None), planned(1, None, 1.0, Some(converted)));
        let saved = plain.expected_seconds - in_8_bits.expected_seconds;
        let linear = plain.forwards as f64 * plain.forward_flops.linear;
        let expected = linear * (1.0 / 1e15 - 1.0 / 2e15) / GPU_SHARE;
        assert!((saved / expected - 1.0).abs() < 1e-6, "{saved} s saved, {expected} expected");
        assert!(plain.forward_flops.attention > plain.forward_flops.linear);
        assert_eq!(plain.machine_8_bit_flops_per_second, None);
        let text = in_8_bits.to_string();
        assert!(text.contains("(1.0 PFLOP/s, 2.0 PFLOP/s in 8 bits, by the data sheet"), "{text}");
    }

    #[test]
    fn what_gpus_exchange_is_part_of_the_time_by_what_their_link_carries() {
        let [slow, fast] = [SLOW, 64.0 * SLOW].map(|rate| planned(2, link(rate), 1.0, None));
        assert_eq!((slow.sharing.groups, slow.sharing.strips), (1, 2));
        let exchange = slow.exchange.clone().expect("two that share each pass");
        // Of 25 latent frames of 34 x 60 patches each has half, and gives half of that away: query, key, value and what
        // they saw, of 5120 values of two bytes, in each of 40 layers.
        let bytes = 25 * 34 * 60 / 4 * 4 * 5120 * 2 * 40;
        assert_eq!(exchange.bytes, bytes);
        let seconds = slow.forwards as f64 * bytes as f64 / (SLOW * GPU_SHARE);
        assert!((exchange.seconds / seconds - 1.0).abs() < 1e-9, "{exchange:?}, {seconds} s");
        let more = slow.expected_seconds - fast.expected_seconds;
        assert!((more / (seconds * 63.0 / 64.0) - 1.0).abs() < 1e-6, "{more} s of {seconds}");
        let text = slow.to_string();
        assert!(text.contains("leave each in a pass by PCI Express (16.0 GB/s, by the"), "{text}");
    }

    #[test]
    fn gpus_that_share_no_pass_exchange_nothing_and_groups_do_it_side_by_side() {
        let apart = planned(2, link(SLOW), 6.0, None);
        assert_eq!((apart.sharing.groups, apart.sharing.strips), (2, 1));
        assert_eq!(apart.exchange, None);
        assert!(!apart.to_string().contains("exchange"));
        let alone = planned(2, link(SLOW), 1.0, None).exchange.expect("one group of two");
        let groups = planned(4, link(SLOW), 6.0, None);
        assert_eq!((groups.sharing.groups, groups.sharing.strips), (2, 2));
        let groups = groups.exchange.expect("two groups of two");
        assert_eq!(groups.bytes, alone.bytes);
        // Twice as many passes, half of them each.
        assert!((groups.seconds / alone.seconds - 1.0).abs() < 1e-9, "{groups:?} {alone:?}");
    }
}
