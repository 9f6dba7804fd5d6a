//! Proxies, the places that models and images come from, the port of the server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

use longreel_hub::{Client, Environment, HubError, Reached, Settings, Site};

use super::finding::{Findings, words};

/// Ports that proxies on one's own machine listen at: Clash, its followers, others.
const PROXY_PORTS: [u16; 6] = [7890, 7897, 8080, 1080, 10808, 10809];
/// How long such a port may take to answer.
const KNOCK: Duration = Duration::from_millis(300);
/// A clock that is further off than this, in seconds, breaks signatures.
const CLOCK_OFF: u64 = 120;
/// Where the images of containers come from.
const REGISTRY: &str = "https://registry-1.docker.io/v2/";
const MIRROR: &str = "https://hf-mirror.com";

pub fn look(findings: &mut Findings, listen: SocketAddr, is_offline: bool) {
    port(findings, listen);
    let environment = Environment::of_process();
    let named =
        ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY"];
    let set = named.into_iter().find(|name| environment.get(name).is_some());
    match set {
        Some(name) => findings.ok("proxy", words!("{name} is set", "已设置 {name}")),
        None => findings.ok("proxy", words!("none is set", "未设置代理")),
    }
    if is_offline {
        return;
    }
    let hub = |site, endpoint: Option<&str>, is_hub: bool| -> Result<Reached, HubError> {
        let mut settings = Settings::new(site, &environment, endpoint)?;
        if !is_hub {
            // A token goes to those that it is of.
            settings.token = None;
        }
        Client::new(settings)?.reach()
    };
    // Side by side: what cannot be reached takes its time to say so.
    let (hugging_face, scope, mirror, registry) = std::thread::scope(|scope| {
        let asked = [
            scope.spawn(|| hub(Site::HuggingFace, None, true)),
            scope.spawn(|| hub(Site::ModelScope, None, true)),
            scope.spawn(|| hub(Site::HuggingFace, Some(MIRROR), false)),
            scope.spawn(|| hub(Site::HuggingFace, Some(REGISTRY), false)),
        ];
        let [a, b, c, d] = asked
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (a, b, c, d)
    });
    // One way to models is enough.
    let any = [&hugging_face, &scope, &mirror].into_iter().any(is_there);
    let proxies: Vec<u16> = match set {
        Some(_) => Vec::new(),
        None => PROXY_PORTS.into_iter().filter(|&port| listens(port)).collect(),
    };
    let cure = match (set, proxies.first()) {
        // Named, and everything that goes through it fails.
        (Some(name), _) => words!(
            "is the proxy running that {name} names? Start it, or unset {name}; models that are here need no \
             network",
            "{name} 所指的代理是否在运行？请启动它，或取消 {name}；已下载的模型无需网络"
        ),
        (None, Some(port)) => words!(
            "a proxy seems to listen on this machine: export https_proxy=http://127.0.0.1:{port}",
            "本机似乎有代理在监听：export https_proxy=http://127.0.0.1:{port}"
        ),
        (None, None) => words!(
            "set https_proxy, or a mirror: export HF_ENDPOINT={MIRROR}, or --hub modelscope; models that are \
             here need no network",
            "请设置 https_proxy，或使用镜像：export HF_ENDPOINT={MIRROR}，或 --hub modelscope；已下载的模型无需网络"
        ),
    };
    for (name, answer) in
        [("Hugging Face", &hugging_face), ("ModelScope", &scope), ("hf-mirror.com", &mirror)]
    {
        match answer {
            Ok(reached) if is_there(answer) => {
                let ms = reached.took.as_millis();
                findings
                    .ok("hub", words!("{name} answers after {ms} ms", "{name} 在 {ms} 毫秒后应答"));
            }
            Ok(Reached { status, .. }) => {
                let found = words!("{name} answers with {status}", "{name} 返回 {status}");
                tell(findings, any, found, &cure);
            }
            Err(error) => {
                let why = error.to_string();
                let why = why.split(';').next().unwrap_or_default();
                let reason = reason_in_chinese(error).unwrap_or_else(|| why.to_owned());
                tell(findings, any, words!("{name}: {why}", "无法访问 {name}：{reason}"), &cure);
            }
        }
    }
    match &registry {
        // It asks who is there, which is an answer.
        Ok(_) => findings.ok("registry", words!("Docker Hub answers", "Docker Hub 可以访问")),
        Err(_) => findings.note(
            "registry",
            words!("Docker Hub is not reached", "无法访问 Docker Hub"),
            Some(words!(
                "only for building images: docker/build.sh finds a proxy and says which settings help",
                "仅构建镜像时需要：docker/build.sh 会查找代理并给出建议"
            )),
        ),
    }
    let there = [&hugging_face, &scope, &mirror, &registry];
    if let Some(date) = there.into_iter().flatten().find_map(|reached| reached.date) {
        clock(findings, date);
    }
}

/// What is in the way, where there are words of ours for it; what the system says stays as it is.
fn reason_in_chinese(error: &HubError) -> Option<String> {
    let HubError::Unreachable { host, problem, .. } = error else { return None };
    let is = |start: &str| problem.strip_prefix(start);
    let reason = if is("is not known to the name server").is_some() {
        "域名服务器无法解析".to_owned()
    } else if is("cannot be looked up").is_some() {
        "域名服务器没有应答".to_owned()
    } else if is("takes too long").is_some() {
        "超时".to_owned()
    } else if let Some(why) = is("is not reached through the proxy: ") {
        format!("无法经由代理访问（{why}）")
    } else {
        format!("无法连接（{}）", is("cannot be reached: ")?)
    };
    Some(format!("{host} {reason}"))
}

fn is_there(answer: &Result<Reached, HubError>) -> bool {
    answer.as_ref().is_ok_and(|reached| reached.status != 407 && reached.status < 500)
}

/// It matters when there is no other way.
fn tell(
    findings: &mut Findings,
    any: bool,
    found: super::finding::Words,
    cure: &super::finding::Words,
) {
    match any {
        true => findings.note("hub", found, None),
        false => findings.warn("hub", found, cure.clone()),
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), KNOCK).is_ok()
}

fn clock(findings: &mut Findings, theirs: SystemTime) {
    let now = SystemTime::now();
    let off = now.duration_since(theirs).or_else(|_| theirs.duration_since(now));
    let off = off.map_or(0, |off| off.as_secs());
    if off > CLOCK_OFF {
        findings.warn(
            "clock",
            words!("{off} s off", "误差 {off} 秒"),
            words!(
                "set it (timedatectl set-ntp true): receivers of webhooks refuse what was signed at another time",
                "请校准（timedatectl set-ntp true）：webhook 接收方会拒绝时间不符的签名"
            ),
        );
    } else {
        findings.ok("clock", words!("right", "正确"));
    }
}

fn port(findings: &mut Findings, listen: SocketAddr) {
    match TcpListener::bind(listen) {
        Ok(_) => findings.ok("port", words!("{listen} is free", "{listen} 可用")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => findings.note(
            "port",
            words!("{listen} is taken", "{listen} 已被占用"),
            Some(words!(
                "is the server running already? Else end what holds it, or choose another with --listen",
                "服务是否已在运行？否则请结束占用它的程序，或用 --listen 另选端口"
            )),
        ),
        Err(error) => findings.error(
            "port",
            words!("{listen} cannot be listened at: {error}", "无法监听 {listen}：{error}"),
            words!(
                "choose an address of this machine (127.0.0.1, 0.0.0.0) and a port above 1023 with --listen",
                "请用 --listen 选择本机地址（127.0.0.1、0.0.0.0）和 1023 以上的端口"
            ),
        ),
    }
}
