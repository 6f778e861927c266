//! `millrace health`: whether the process of this machine or container is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

/// Shorter than the pause between two health checks, so that they never overlap.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Ask the process that listens on LISTEN whether it is ready; for health checks of containers and units.
///
/// Exit 0 if every component of it is ready; 1 if one is not, with its reason, or if nothing answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the process listens; all interfaces mean the loopback one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Print the answer as a JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let address = reachable(args.listen);
    let (ready, report) = match ask(address).await {
        Ok(answer) => answer,
        Err(error) => {
            let reason = match error.is_timeout() {
                true => format!("no answer within {} s", TIMEOUT.as_secs()),
                false => "no answer".to_owned(),
            };
            (
                false,
                serde_json::json!({"ready": false, "error": format!("{address}: {reason}")}),
            )
        }
    };
    match args.json {
        true => crate::output::line(&report.to_string())?,
        false => crate::output::line(&text(ready, &report))?,
    }
    Ok(ExitCode::from(u8::from(!ready)))
}

async fn ask(address: SocketAddr) -> Result<(bool, Value), reqwest::Error> {
    // A proxy of the environment is for the outside, never for this.
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .build()?;
    let response = client
        .get(format!("http://{address}/health/ready"))
        .send()
        .await?;
    Ok((response.status().is_success(), response.json().await?))
}

fn text(ready: bool, report: &Value) -> String {
    if ready {
        return "ready".to_owned();
    }
    let mut reasons: Vec<String> = report["components"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, state)| *state != "ready")
        .map(|(name, state)| format!("{name}: {}", state.as_str().unwrap_or("unknown")))
        .collect();
    reasons.extend(report["error"].as_str().map(str::to_owned));
    if reasons.is_empty() {
        reasons.push("no component has started".to_owned());
    }
    format!("not ready: {}", reasons.join("; "))
}

fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_listens_on_all_interfaces_is_asked_over_loopback() {
        let asked = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(asked("[::]:1"), "[::1]:1");
        assert_eq!(asked("192.0.2.7:9"), "192.0.2.7:9");
    }

    #[test]
    fn what_is_not_ready_is_named_with_its_reason() {
        let report = serde_json::json!({"ready": false, "components": {
            "journal": "ready", "relay": "waiting: kafka is away"
        }});
        assert_eq!(
            text(false, &report),
            "not ready: relay: waiting: kafka is away"
        );
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_not_ready() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        assert!(ask(listen).await.is_err());
    }
}
