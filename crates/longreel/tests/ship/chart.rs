//! The Helm chart, linted and rendered by Helm's own code (the package helm-python-sdk brings it).

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::program::Place;
use crate::tools::{has, python, read, repository};

const CHART: &str = "deploy/helm/longreel";
const INSTALL: &str =
    "pip install helm-python-sdk, or set LONGREEL_TEST_PYTHON to a Python that has it";

fn can_render() -> bool {
    has(&python(), &["-c", "import helm_python"], INSTALL)
}

/// What comes out for these values; the error when nothing does.
fn render(values: &Value) -> Result<Value, String> {
    let mut child = Command::new(python())
        .arg(repository().join("crates/longreel/tests/ship/chart.py"))
        .arg(repository().join(CHART))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was run before");
    child.stdin.take().expect("piped").write_all(values.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let out: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(out["messages"]["errors"], json!([]), "{values}");
    let messages = out["messages"]["messages"].as_array().expect("messages");
    // 1 is for information; there is no icon.
    assert!(messages.iter().all(|m| m["severity"] == 1), "{values}: {messages:?}");
    Ok(out)
}

fn rendered(values: &Value) -> Vec<Value> {
    let out = render(values).unwrap_or_else(|e| panic!("{values}: {e}"));
    out["objects"].as_array().expect("objects").clone()
}

fn named(objects: &[Value], kind: &str, name: &str) -> Value {
    let found = objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name} among {objects:#?}")).clone()
}

fn environment(set: &Value) -> Vec<(String, String)> {
    let variables = &set["spec"]["template"]["spec"]["containers"][0]["env"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let variables = variables.as_array().expect("a list");
    variables.iter().map(|v| (text(&v["name"]), text(&v["value"]))).collect()
}

#[test]
fn the_usual_values_give_one_safe_service_with_volumes_and_probes() {
    if !can_render() {
        return;
    }
    let objects = rendered(&json!({}));
    let kinds: BTreeSet<&str> = objects.iter().filter_map(|o| o["kind"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["PodDisruptionBudget", "Service", "StatefulSet"]));
    let set = named(&objects, "StatefulSet", "films-longreel");
    assert_eq!(set["spec"]["replicas"], 1);
    assert_eq!(set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"], "Retain");
    let claims = set["spec"]["volumeClaimTemplates"].as_array().expect("claims");
    assert_eq!(claims.len(), 2);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "longreel:0.1.0-cpu");
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/health/ready");
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/health/live");
    assert!(
        pod["nodeSelector"].is_null()
            && container["resources"]["limits"]["nvidia.com/gpu"].is_null()
    );
    // Each volume that is mounted is there.
    let names = |list: &Value, key: &str| -> BTreeSet<String> {
        list.as_array()
            .expect("a list")
            .iter()
            .map(|v| v[key].as_str().expect("a name").into())
            .collect()
    };
    let mut there = names(&pod["volumes"], "name");
    there.extend(claims.iter().map(|c| c["metadata"]["name"].as_str().expect("a name").to_owned()));
    assert_eq!(names(&container["volumeMounts"], "name"), there);
}

#[test]
fn cards_choose_nodes_and_image() {
    if !can_render() {
        return;
    }
    let objects = rendered(&json!({
        "gpu": {"enabled": true, "count": 2, "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
        "nodeSelector": {"zone": "a"},
        "persistence": {"models": {"existingClaim": "weights"}},
    }));
    let set = named(&objects, "StatefulSet", "films-longreel");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "longreel:0.1.0-gpu");
    assert_eq!(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], 2);
    assert_eq!(pod["containers"][0]["resources"]["limits"]["memory"], "8Gi");
    let selector = &pod["nodeSelector"];
    assert_eq!(
        (&selector["zone"], &selector["nvidia.com/gpu.product"]),
        (&"a".into(), &"NVIDIA-H100-80GB-HBM3".into())
    );
    assert_eq!(pod["tolerations"][0]["key"], "nvidia.com/gpu");
    assert_eq!(pod["volumes"][0]["persistentVolumeClaim"]["claimName"], "weights");
}

#[test]
fn replicas_are_services_of_their_own_that_are_never_scaled_away() {
    if !can_render() {
        return;
    }
    let values = json!({"autoscaling": {"enabled": true, "maxReplicas": 3, "queueLength": 7}});
    let objects = rendered(&values);
    for number in 0..3 {
        let service = named(&objects, "Service", &format!("films-longreel-{number}"));
        let pod = &service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"];
        assert_eq!(pod, &format!("films-longreel-{number}"));
    }
    let set = named(&objects, "StatefulSet", "films-longreel");
    assert!(set["spec"]["replicas"].is_null(), "two would decide how many there are");
    let scaled = named(&objects, "ScaledObject", "films-longreel");
    let trigger = &scaled["spec"]["triggers"][0]["metadata"];
    assert_eq!(trigger["threshold"], "7");
    assert!(
        trigger["query"].as_str().is_some_and(|q| q.contains("longreel_jobs{state=\"queued\"")),
        "{trigger}"
    );
    let behavior = &scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"];
    assert_eq!(behavior["scaleDown"]["selectPolicy"], "Disabled");
    let notes = render(&values).expect("rendered")["notes"].as_str().expect("a text").to_owned();
    assert!(notes.contains("Each replica is a service of its own"), "{notes}");
}

#[test]
fn everything_at_once_is_rendered_with_secrets_and_alerts() {
    if !can_render() {
        return;
    }
    let objects = rendered(&json!({
        "replicas": 2,
        "secrets": {"hfToken": "hf_x", "webhookSecret": "whsec_eA==", "notify": "https://chat.example/x#s"},
        "env": {"https_proxy": "http://proxy.example:3128"},
        "ingress": {"enabled": true, "host": "films.example", "tlsSecret": "tls"},
        "monitoring": {"enabled": true, "labels": {"release": "prometheus"}},
        "settings": {"workers": 2, "keep_days": 30},
    }));
    let secret = named(&objects, "Secret", "films-longreel");
    assert_eq!(secret["stringData"]["webhook-secret"], "whsec_eA==");
    assert_eq!(secret["stringData"]["notify"], "https://chat.example/x#s");
    assert!(secret["stringData"]["enhancer-key"].is_null(), "{secret}");
    let rule = named(&objects, "PrometheusRule", "films-longreel");
    let rules = rule["spec"]["groups"][0]["rules"].as_array().expect("rules").len();
    assert_eq!(rules, read("deploy/prometheus/alerts.yml").matches("- alert: ").count());
    let monitor = named(&objects, "ServiceMonitor", "films-longreel");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let set = named(&objects, "StatefulSet", "films-longreel");
    let set = environment(&set);
    for (name, value) in
        [("LONGREEL_KEEP_DAYS", "30"), ("https_proxy", "http://proxy.example:3128")]
    {
        assert!(set.contains(&(name.into(), value.into())), "{set:?}");
    }
    // Each key of the secret has the variable that reads it.
    for name in ["HF_TOKEN", "LONGREEL_WEBHOOK_SECRET", "LONGREEL_NOTIFY", "LONGREEL_ENHANCER_KEY"]
    {
        assert!(set.iter().any(|(known, _)| known == name), "{name}: {set:?}");
    }
    // Each is a flag of the program, or would do nothing without a word.
    let help = Place::new().run(&["serve", "--help"]).expect_code(0).stdout;
    for (name, _) in set {
        let Some(name) = name.strip_prefix("LONGREEL_") else { continue };
        let flag = format!("--{}", name.to_ascii_lowercase().replace('_', "-"));
        // A secret is read from its variable alone, which the help names.
        let is_known = help.contains(&flag) || help.contains(&format!("LONGREEL_{name}"));
        assert!(is_known, "`serve` has no {flag}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    if !can_render() {
        return;
    }
    for (values, part) in [
        (json!({"replicas": 0}), "replicas"),
        (json!({"gpus": {"enabled": true}}), "gpus"),
        (json!({"ingress": {"enabled": true}}), "ingress.host"),
        (json!({"settings": {"data": "/elsewhere"}}), "'data'"),
        (json!({"env": {"LONGREEL_DATA": "/elsewhere"}}), "LONGREEL_DATA"),
    ] {
        let error = render(&values).expect_err("refused");
        assert!(error.contains(part), "{values}: {error}");
    }
}

#[test]
fn the_alerts_of_the_chart_are_those_of_prometheus() {
    let copy = read("deploy/helm/longreel/files/alerts.yml");
    let same = copy == read("deploy/prometheus/alerts.yml");
    assert!(same, "cp deploy/prometheus/alerts.yml deploy/helm/longreel/files/alerts.yml");
}
