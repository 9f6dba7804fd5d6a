//! API keys.

use longreel_jobs::{KeyRefusal, NewKey, RateLimit, Scope, StoreError, StoreOptions};

use super::Bench;

pub fn adjust(_: &mut StoreOptions) {}

fn asked(name: &str) -> NewKey {
    NewKey {
        name: name.into(),
        owner: "ann".into(),
        scopes: vec![Scope::JobsWrite, Scope::JobsRead, Scope::JobsRead],
        rate_limit: Some(RateLimit { per_minute: 600, burst: 20 }),
        expires_ms: None,
    }
}

pub async fn a_key_is_verified_by_its_secret_and_only_shown_in_part(bench: Bench) {
    let first = bench.store.create_key(asked("first")).await.unwrap();
    let second = bench.store.create_key(asked("second")).await.unwrap();
    let other = bench.open_again().await;
    for issued in [&first, &second] {
        let key = other.verify_key(issued.secret.reveal()).await.unwrap();
        assert_eq!((key.id, &key.asked), (issued.key.id, &issued.key.asked));
        assert!(key.allows(Scope::JobsRead) && !key.allows(Scope::Admin));
    }
    assert_eq!(first.key.asked.scopes, [Scope::JobsRead, Scope::JobsWrite]);
    let listed = bench.store.list_keys().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|key| key.asked.name.as_str()).collect();
    assert_eq!(names, ["second", "first"]);
    let shown = format!("{listed:?} {first:?}");
    assert!(shown.contains(&first.key.prefix));
    assert!(!shown.contains(&first.secret.reveal()[first.key.prefix.len()..]));
}

pub async fn revoked_expired_and_unknown_keys_are_told_apart(bench: Bench) {
    let revoked = bench.store.create_key(asked("revoked")).await.unwrap();
    let expires_ms = Some(1_750_000_000_000 + 1_000);
    let expired = NewKey { expires_ms, ..asked("expired") };
    let expired = bench.store.create_key(expired).await.unwrap();
    let refusal = async |secret: &str| match bench.store.verify_key(secret).await {
        Ok(_) => None,
        Err(StoreError::Key(refusal)) => Some(refusal),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(refusal(revoked.secret.reveal()).await, None);
    assert_eq!(refusal(expired.secret.reveal()).await, None);
    assert_eq!(bench.store.check_key(revoked.key.id).await.unwrap().asked, revoked.key.asked);
    let at = bench.store.revoke_key(revoked.key.id).await.unwrap().revoked_ms;
    bench.clock.advance_ms(1_000);
    assert_eq!(bench.store.revoke_key(revoked.key.id).await.unwrap().revoked_ms, at);
    assert_eq!(refusal(revoked.secret.reveal()).await, Some(KeyRefusal::Revoked));
    assert_eq!(refusal(expired.secret.reveal()).await, Some(KeyRefusal::Expired));
    for (id, refusal) in [
        (revoked.key.id, KeyRefusal::Revoked),
        (expired.key.id, KeyRefusal::Expired),
        (longreel_jobs::KeyId::new(1), KeyRefusal::Unknown),
    ] {
        let checked = bench.store.check_key(id).await;
        assert!(matches!(checked, Err(StoreError::Key(found)) if found == refusal), "{checked:?}");
    }
    // The shown part alone, and with another end.
    let mut guess = revoked.secret.reveal().to_owned();
    assert_eq!(refusal(&revoked.key.prefix).await, Some(KeyRefusal::Unknown));
    guess.truncate(revoked.key.prefix.len());
    let guess = guess + &expired.secret.reveal()[revoked.key.prefix.len()..];
    assert_eq!(refusal(&guess).await, Some(KeyRefusal::Unknown));
    let unknown = bench.store.revoke_key(longreel_jobs::KeyId::new(1)).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { what: "key", .. })));
}

pub async fn last_use_is_noted_to_the_minute(bench: Bench) {
    let issued = bench.store.create_key(asked("a")).await.unwrap();
    let last = async || bench.store.list_keys().await.unwrap()[0].last_used_ms;
    assert_eq!(last().await, None);
    for (advance, expected) in [(0, 0), (59_999, 0), (1, 60_000), (-3_600_000, -3_540_000)] {
        bench.clock.advance_ms(advance);
        bench.store.verify_key(issued.secret.reveal()).await.unwrap();
        assert_eq!(last().await, Some(issued.key.created_ms + expected));
    }
}

pub async fn a_key_without_scopes_or_with_a_rate_of_nothing_is_refused(bench: Bench) {
    let nothing = Some(RateLimit { per_minute: 0, burst: 1 });
    for (name, new) in [
        ("scopes", NewKey { scopes: vec![], ..asked("a") }),
        ("rate_limit", NewKey { rate_limit: nothing, ..asked("a") }),
        ("name", asked("")),
        ("owner", NewKey { owner: String::new(), ..asked("a") }),
    ] {
        match bench.store.create_key(new).await {
            Err(StoreError::Invalid { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}
