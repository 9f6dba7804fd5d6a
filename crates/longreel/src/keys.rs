//! `longreel keys`: the API keys of a server, in its data folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use longreel_jobs::{
    ApiKey, Clock, KeyStore, NewKey, RateLimit, Scope, SqliteStore, StoreError, StoreOptions,
    SystemClock,
};
use longreel_server::{DATABASE, WEBHOOK_SECRET, secret_in};
use serde_json::{Value, json};

use crate::amounts::{Days, Rate};
use crate::outcome::{EXIT_DONE, bad_input};
use crate::report::{print, print_json};
use crate::serve::{DATA, webhook_secret};
use crate::serve_args::{CreateArgs, KeysArgs, KeysCommand, RevokeArgs, ScopeArg};

/// Does what is asked with the keys of a data folder.
pub fn keys(args: &KeysArgs, json: bool) -> Result<u8> {
    let data = args.data.clone().unwrap_or_else(|| PathBuf::from(DATA));
    match &args.command {
        KeysCommand::Create(args) => {
            make_folder(&data)?;
            let issued = with_store(&data, async |store| store.create_key(asked(args)).await)?;
            let secret = issued.secret.reveal();
            if json {
                let mut key = described(&issued.key);
                key["key"] = secret.into();
                print_json(&key);
            } else {
                print(secret);
                eprintln!("This is the key of {:?}; it is not shown again.", args.name);
            }
        }
        KeysCommand::List => {
            check_folder(&data)?;
            let keys = with_store(&data, async |store| store.list_keys().await)?;
            for key in &keys {
                if json { print_json(&described(key)) } else { print(&line(key)) }
            }
            if keys.is_empty() && !json {
                eprintln!("There are no keys; make one with `longreel keys create NAME`.");
            }
        }
        KeysCommand::Revoke(args) => {
            check_folder(&data)?;
            let keys = with_store(&data, async |store| store.list_keys().await)?;
            let id = chosen(&keys, args)?.id;
            let key = with_store(&data, async |store| store.revoke_key(id).await)?;
            if json { print_json(&described(&key)) } else { print(&line(&key)) }
        }
        KeysCommand::WebhookSecret => {
            let secret = match webhook_secret(args.webhook_secret_file.as_deref())? {
                Some(secret) => secret,
                None => {
                    make_folder(&data)?;
                    secret_in(&data.join(WEBHOOK_SECRET)).map_err(|e| bad_input(e.to_string()))?
                }
            };
            let secret = secret.reveal();
            if json { print_json(&json!({"webhook_secret": secret})) } else { print(&secret) }
        }
    }
    Ok(EXIT_DONE)
}

/// Makes a key of scope admin where there is none, and shows it: the log of a container is then all that
/// a newcomer has to read.
pub fn make_first(data: &Path, json: bool) -> Result<()> {
    make_folder(data)?;
    let asked = NewKey {
        name: "first".into(),
        owner: "first".into(),
        scopes: vec![Scope::Admin],
        rate_limit: None,
        expires_ms: None,
    };
    let issued = with_store(data, async |store| {
        let keys = store.list_keys().await?;
        let is_admin = |key: &ApiKey| key.asked.scopes.contains(&Scope::Admin);
        match keys.iter().any(|key| is_admin(key) && state(key) == "active") {
            true => Ok(None),
            false => store.create_key(asked).await.map(Some),
        }
    })?;
    let Some(issued) = issued else { return Ok(()) };
    let secret = issued.secret.reveal();
    if json {
        print_json(&json!({"event": "first_key", "id": issued.key.id, "key": secret}));
    } else {
        print(&format!("API key, shown this once: {secret}"));
    }
    Ok(())
}

fn make_folder(data: &Path) -> Result<()> {
    std::fs::create_dir_all(data).map_err(|e| {
        bad_input(format!("--data: the folder {} cannot be made: {e}", data.display()))
    })
}

/// Nothing is made only to be looked at.
fn check_folder(data: &Path) -> Result<()> {
    if data.join(DATABASE).exists() {
        return Ok(());
    }
    let folder = data.display();
    Err(bad_input(format!(
        "--data: {folder} holds no keys; name the folder that `longreel serve` works in, or make a key \
         with `longreel keys create NAME --data {folder}`"
    )))
}

/// Opens the database, which a server may be at work in, for one call.
pub fn with_store<T>(
    data: &Path,
    call: impl AsyncFnOnce(&SqliteStore) -> Result<T, StoreError>,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a thread for the database")?.block_on(async {
        let store = SqliteStore::open(data.join(DATABASE), StoreOptions::default()).await?;
        let called = call(&store).await;
        store.close().await;
        match called {
            Err(error @ StoreError::Invalid { .. }) => Err(bad_input(error.to_string())),
            called => Ok(called?),
        }
    })
}

fn asked(args: &CreateArgs) -> NewKey {
    let scopes = match args.scope.as_slice() {
        [] => vec![Scope::JobsRead, Scope::JobsWrite],
        scopes => scopes.iter().map(|scope| (*scope).into()).collect(),
    };
    NewKey {
        name: args.name.clone(),
        owner: args.owner.clone().unwrap_or_else(|| args.name.clone()),
        scopes,
        rate_limit: args
            .rate_limit
            .map(|Rate { per_minute, burst }| RateLimit { per_minute, burst }),
        expires_ms: args.expires_days.map(|days| now_ms().saturating_add(Days::ms(days))),
    }
}

impl From<ScopeArg> for Scope {
    fn from(arg: ScopeArg) -> Self {
        match arg {
            ScopeArg::Read => Self::JobsRead,
            ScopeArg::Write => Self::JobsWrite,
            ScopeArg::Admin => Self::Admin,
        }
    }
}

fn now_ms() -> i64 {
    SystemClock.now_ms()
}

/// The one key that was meant.
fn chosen<'a>(keys: &'a [ApiKey], args: &RevokeArgs) -> Result<&'a ApiKey> {
    let text = args.key.as_str();
    // A whole key begins with what is shown of it; nobody should have to cut it.
    let is_meant = |key: &&ApiKey| {
        key.id.to_string() == text || text.starts_with(&key.prefix) || key.asked.name == text
    };
    let open = keys.iter().filter(|key| key.revoked_ms.is_none()).filter(is_meant);
    let meant: Vec<&ApiKey> = match open.collect::<Vec<_>>() {
        open if open.is_empty() => keys.iter().filter(is_meant).collect(),
        open => open,
    };
    match meant.as_slice() {
        [key] => Ok(key),
        [] => Err(bad_input(format!(
            "there is no key {:?}; `longreel keys list` shows them",
            text.chars().take(40).collect::<String>()
        ))),
        several => {
            let ids: Vec<String> = several.iter().map(|key| key.id.to_string()).collect();
            Err(bad_input(format!(
                "{} keys are called {text:?}; name one of {}",
                several.len(),
                ids.join(", ")
            )))
        }
    }
}

fn state(key: &ApiKey) -> &'static str {
    match (key.revoked_ms, key.asked.expires_ms) {
        (Some(_), _) => "revoked",
        (None, Some(expires)) if expires <= now_ms() => "expired",
        _ => "active",
    }
}

fn scopes(key: &ApiKey) -> Vec<&'static str> {
    let name = |scope: &Scope| match scope {
        Scope::JobsRead => "read",
        Scope::JobsWrite => "write",
        Scope::Admin => "admin",
    };
    key.asked.scopes.iter().map(name).collect()
}

fn described(key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "name": key.asked.name,
        "owner": key.asked.owner,
        "scopes": scopes(key),
        "rate_limit": key.asked.rate_limit,
        "prefix": key.prefix,
        "state": state(key),
        "created_ms": key.created_ms,
        "expires_ms": key.asked.expires_ms,
        "revoked_ms": key.revoked_ms,
        "last_used_ms": key.last_used_ms,
    })
}

fn line(key: &ApiKey) -> String {
    let ago = |ms: i64| match now_ms().saturating_sub(ms) / 60_000 {
        minutes @ ..60 => format!("{} min ago", minutes.max(0)),
        minutes @ 60..2_880 => format!("{} h ago", minutes / 60),
        minutes => format!("{} days ago", minutes / 1_440),
    };
    let used = key.last_used_ms.map_or("never used".to_owned(), |ms| format!("used {}", ago(ms)));
    let rate = key.asked.rate_limit.map(|rate| format!("  {} a minute", rate.per_minute));
    format!(
        "{}  {}  {:<7}  {:<10}  {} of {}  made {}, {used}{}",
        key.id,
        key.prefix,
        state(key),
        scopes(key).join(","),
        key.asked.name,
        key.asked.owner,
        ago(key.created_ms),
        rate.unwrap_or_default(),
    )
}
