//! How weights share a GPU's memory: which of them stay, and what the others come to.

use super::weights::AHEAD;

/// How often a weight is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Use {
    /// In each pass of a network.
    #[default]
    EachPass,
    /// Once for many passes, which have what was made with it.
    Seldom,
}

/// Weights of a model that have a use in common.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightGroup {
    /// Bytes of all of them.
    pub bytes: usize,
    /// Bytes of the largest one.
    pub largest: usize,
}

/// How the weights of a model share a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightPlan {
    /// Bytes of weights that stay: of those of each pass the first ones, and where there are no places all.
    pub resident: usize,
    /// Places for those that are brought in turn; 0 when all stay.
    pub places: usize,
    /// Bytes of such a place: those of the largest weight that is brought. One that is larger all the same gets a
    /// place as large as itself.
    pub place: usize,
}

impl WeightPlan {
    /// Everything stays.
    pub const ALL: Self = Self { resident: usize::MAX, places: 0, place: 0 };

    /// Places when not all stay: two that are computed with, as a feed-forward does, and four that are filled
    /// meanwhile, since attention is long and the layers behind it are short.
    pub const PLACES: usize = 2 + AHEAD;

    /// The plan for the weights of each pass, in groups of which each is used before the next one, and for those that are
    /// used [seldom](Use::Seldom), in `budget` bytes: as many as possible of the groups stay as a whole, and of the next
    /// one what the places leave. `None` when not even these fit.
    pub fn new(each_pass: &[WeightGroup], seldom: WeightGroup, budget: usize) -> Option<Self> {
        let plan = Self::least_plans(each_pass, seldom).find(|plan| plan.bytes() <= budget)?;
        let of_each_pass = each_pass.iter().map(|group| group.bytes).sum::<usize>();
        let left = budget - plan.places * plan.place;
        // What is used seldom stays where all does.
        let resident = if plan.places == 0 { plan.resident } else { left.min(of_each_pass) };
        Some(Self { resident, ..plan })
    }

    /// The least budget that [`new`](Self::new) has a plan for.
    pub fn least_bytes(each_pass: &[WeightGroup], seldom: WeightGroup) -> usize {
        Self::least_plans(each_pass, seldom).map(|plan| plan.bytes()).min().unwrap_or(0)
    }

    /// Plans in which one group less stays as a whole each time, and nothing of the others; the first one keeps all.
    fn least_plans(each_pass: &[WeightGroup], seldom: WeightGroup) -> impl Iterator<Item = Self> {
        let groups = each_pass.iter().copied().chain([seldom]).filter(|group| group.bytes > 0);
        let groups: Vec<_> = groups.collect();
        (0..=groups.len()).rev().map(move |count| {
            let (stay, others) = groups.split_at(count);
            let resident = stay.iter().map(|group| group.bytes).sum();
            let place = others.iter().map(|group| group.largest).max();
            let places = place.map_or(0, |_| Self::PLACES);
            Self { resident, places, place: place.unwrap_or(0) }
        })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.resident.saturating_add(self.places * self.place)
    }
}
