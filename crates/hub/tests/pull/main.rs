//! Pulling from a hub on this machine that misbehaves as real ones do.

mod keeping;
mod network;
mod python;
mod stand_in;

use std::path::Path;
use std::time::Duration;

use longreel_hub::{
    Cache, Client, Environment, HubError, Kept, Patience, Pull, Settings, Site, Wish, select,
};
use stand_in::StandIn;
use tempfile::TempDir;

/// A cache in a folder of its own, and the hub that it is filled from.
struct Place {
    folder: TempDir,
    settings: Settings,
}

impl Place {
    fn new(site: Site, hub: &StandIn, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display().to_string();
        let fixed = [("HF_HUB_CACHE", path.as_str()), ("MODELSCOPE_CACHE", &path), ("HOME", &path)];
        let environment: Environment =
            fixed.iter().chain(more).map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let mut settings =
            Settings::new(site, &environment, Some(&hub.base())).expect("good settings");
        settings.patience = Patience {
            tries: 4,
            first: Duration::from_millis(5),
            longest: Duration::from_millis(20),
            longest_asked: Duration::from_secs(3),
            silence: Duration::from_secs(5),
        };
        Self { folder, settings }
    }

    fn cache(&self) -> Cache {
        Cache::new(&self.settings)
    }

    fn pull(&self, include: &[&str]) -> Result<Kept, HubError> {
        let client = Client::new(self.settings.clone())?;
        let listing = client.list(&"org/model".parse()?, None)?;
        let wish = Wish { include: include.iter().map(|&s| s.to_owned()).collect() };
        let cache = self.cache();
        let pull = Pull::plan(&cache, &listing, &select(&listing, &wish)?)?;
        pull.fetch(&client, 3, &|_| {})
    }

    /// Names of everything under the cache.
    fn names(&self) -> Vec<String> {
        fn walk(root: &Path, folder: &Path, names: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() && !path.is_symlink() {
                    walk(root, &path, names);
                } else {
                    names.push(path.strip_prefix(root).expect("inside").display().to_string());
                }
            }
        }
        let mut names = Vec::new();
        walk(self.folder.path(), self.folder.path(), &mut names);
        names.retain(|name| !name.starts_with(".locks"));
        names.sort();
        names
    }
}

/// A repository in the Diffusers layout, with one large file.
fn small_repository() -> (StandIn, Vec<u8>) {
    let hub = StandIn::new();
    let weights: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    hub.file("model_index.json", "{}");
    hub.file("README.md", "# not needed");
    hub.file("vae/config.json", "{\"a\": 1}");
    hub.file("transformer/config.json", "{\"b\": 2}");
    hub.large_file("transformer/diffusion_pytorch_model.safetensors", weights.clone());
    hub.large_file("transformer/diffusion_pytorch_model.bin", b"a pickle".to_vec());
    (hub, weights)
}

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";
