//! Alert rules and dashboard against real Prometheus and the real `/metrics`.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Place, model};
use crate::server::{PATIENCE, Server, asked};
use crate::tools::{has, read, repository, run};

const INSTALL: &str = "install the package prometheus";
const RULES: &str = "deploy/prometheus/alerts.yml";
const DASHBOARD: &str = "deploy/grafana/dashboards/longreel.json";

/// The expressions of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    targets.map(|target| target["expr"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn every_metric_of_alerts_and_dashboard_is_there() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(2));
    server.film(&id);
    let served = String::from_utf8(server.get("/metrics").expect(200).body).expect("text");
    let served: BTreeSet<&str> =
        served.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let rules = read(RULES);
    // What stands in descriptions is prose.
    let rules = rules.lines().filter(|line| !line.trim_start().starts_with("summary"));
    let text = rules
        .chain(expressions().iter().map(String::as_str))
        .fold(String::new(), |a, b| a + b + "\n");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: BTreeSet<&str> =
        text.split(|c| !is_name(c)).filter(|word| word.starts_with("longreel_")).collect();
    assert!(named.len() > 15, "{named:?}");
    let missing: Vec<_> = named.difference(&served).collect();
    assert!(missing.is_empty(), "not in /metrics: {missing:?}");
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    if !has("promtool", &["--version"], INSTALL) {
        return;
    }
    let folder = repository().join("deploy/prometheus");
    run(Command::new("promtool").args(["test", "rules", "alerts_test.yml"]).current_dir(&folder));
    let words = ["check", "config", "--syntax-only", "prometheus.yml"];
    run(Command::new("promtool").args(words).current_dir(&folder));
    // None is left out.
    let (rules, tests) = (read(RULES), read("deploy/prometheus/alerts_test.yml"));
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let untested: Vec<&str> = names.filter(|name| !tests.contains(name)).collect();
    assert!(untested.is_empty(), "not tested: {untested:?}");
}

/// A running Prometheus. It is killed when this is dropped.
struct Prometheus {
    child: Child,
    agent: ureq::Agent,
    address: String,
}

impl Prometheus {
    /// With our alert rules, watching a server.
    fn start(place: &Place, server: &Server) -> Self {
        let rules = repository().join(RULES);
        let target = server.url("").replace("http://", "");
        let config = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [{:?}]\n\
             scrape_configs:\n  - job_name: longreel\n    static_configs: [{{targets: [{target:?}]}}]\n",
            rules.display()
        );
        let config = place.write("prometheus.yml", config);
        // A port that was free a moment ago; it takes no port of its own choice.
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", place.path("metrics").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was run before");
        let config = ureq::Agent::config_builder().proxy(None).timeout_global(Some(PATIENCE));
        Self { child, agent: config.build().into(), address }
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let mut request = self.agent.get(format!("http://{}{path}", self.address));
        for (name, value) in query {
            request = request.query(*name, *value);
        }
        let text = request.call().ok()?.body_mut().read_to_string().ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Names and states of the alerts there are.
    fn alerts(&self) -> Vec<(String, String)> {
        let answer = self.get("/api/v1/alerts", &[]).unwrap_or_default();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        alerts.iter().map(|a| (text(&a["labels"]["alertname"]), text(&a["state"]))).collect()
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            assert!(started.elapsed() < PATIENCE, "never {what}: {:?}", self.alerts());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker is really killed, and whoever is on call hears of it.
#[cfg(target_os = "linux")]
#[test]
fn a_real_prometheus_fires_when_a_worker_is_killed() {
    use crate::server::signal_process;
    if !has("prometheus", &["--version"], INSTALL) {
        return;
    }
    let place = Place::new();
    let server = Server::start_with(&place, &["--model", &model()]);
    server.wait_ready();
    let prometheus = Prometheus::start(&place, &server);
    let deaths = [("query", r#"longreel_worker_deaths_total{cause="killed"} == 0"#)];
    prometheus.wait("watching", |prometheus| {
        let found = prometheus.get("/api/v1/query", &deaths).unwrap_or_default();
        found["data"]["result"].as_array().is_some_and(|found| !found.is_empty())
    });
    assert!(prometheus.alerts().is_empty(), "{:?}", prometheus.alerts());
    let id = server.ask(&asked(400));
    server.wait(&id, "in work", |video| video["status"] == "in_progress");
    let workers = server.workers();
    signal_process(*workers.first().expect("a worker"), "-KILL");
    for name in ["LongreelOutOfMemory", "LongreelWorkerLost"] {
        let firing = (name.to_owned(), "firing".to_owned());
        prometheus.wait(name, |prometheus| prometheus.alerts().contains(&firing));
    }
    // And every panel asks what Prometheus understands.
    for expression in expressions() {
        let asked = expression.replace("$instance", ".*").replace("$__rate_interval", "1m");
        let answer = prometheus.get("/api/v1/query", &[("query", &asked)]).unwrap_or_default();
        assert_eq!(answer["status"], "success", "{asked}");
    }
    server.send("POST", &format!("/v1/videos/{id}/cancel"), &[], []).expect(200);
}
