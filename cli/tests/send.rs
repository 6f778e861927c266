//! `millrace send` against a server that misbehaves: transport faults that the true producer does not show on demand.
#![allow(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the place"
)]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What reached the server, in order: aggregate id, `Idempotency-Key`, data.
type Seen = Vec<(String, String, Value)>;

#[derive(Clone)]
struct Faulty {
    seen: Arc<Mutex<Seen>>,
    /// Says what the n-th try of a command gets, from 0; none is an acceptance.
    fault: fn(id: &str, attempt: usize) -> Option<Response>,
}

async fn command(
    State(server): State<Faulty>,
    UrlPath((_, id)): UrlPath<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let attempt = {
        let mut seen = server.seen.lock().unwrap();
        seen.push((id.clone(), key.clone(), body["data"].clone()));
        seen.iter().filter(|one| one.1 == key).count() - 1
    };
    assert_eq!(headers["millrace-derived-id"], "true");
    if let Some(fault) = (server.fault)(&id, attempt) {
        return fault;
    }
    let answer = json!({"aggregate": "order", "id": id, "version": 1, "events": [],
                        "token": "order.events/0/1:1:1"});
    (StatusCode::CREATED, Json(answer)).into_response()
}

struct Running {
    url: String,
    server: Faulty,
    _runtime: tokio::runtime::Runtime,
}

fn serve(fault: fn(&str, usize) -> Option<Response>) -> Running {
    serve_at("127.0.0.1:0".parse().unwrap(), fault)
}

fn serve_at(at: std::net::SocketAddr, fault: fn(&str, usize) -> Option<Response>) -> Running {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seen = Arc::default();
    let server = Faulty { seen, fault };
    let routes = axum::Router::new()
        .route("/commands/{aggregate}/{id}", axum::routing::post(command))
        .with_state(server.clone());
    let listener = runtime.block_on(tokio::net::TcpListener::bind(at)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(async move { axum::serve(listener, routes).await });
    Running {
        url,
        server,
        _runtime: runtime,
    }
}

fn millrace(directory: &Path, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command
        .arg("send")
        .args(arguments)
        .args(["--json", "--url", url])
        .current_dir(directory)
        .stdin(Stdio::null());
    command
}

fn summary(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn input(directory: &Path, text: &str) {
    std::fs::write(directory.join("in.ndjson"), text).unwrap();
}

const PLAIN: [&str; 5] = ["in.ndjson", "--as", "order.Place", "--id", "id"];

/// Lines `n` of aggregate `n % aggregates`.
fn records(count: usize, aggregates: usize) -> String {
    (0..count)
        .map(|n| format!("{{\"id\":\"a{}\",\"n\":{n}}}\n", n % aggregates))
        .collect()
}

#[test]
fn lines_of_an_aggregate_arrive_in_order_although_the_server_is_busy() {
    let directory = tempfile::tempdir().unwrap();
    // Every third command is first refused with 503: the schedule in which a later line could overtake it.
    let running = serve(|id, attempt| {
        let busy = attempt == 0 && id.ends_with(['0', '3', '6', '9']);
        busy.then(|| StatusCode::SERVICE_UNAVAILABLE.into_response())
    });
    input(directory.path(), &records(200, 10));
    let output = millrace(directory.path(), &running.url, &PLAIN)
        .args(["--acks", "acks"])
        .output()
        .unwrap();
    assert_eq!(summary(&output)["accepted"], 200);
    assert!(output.status.success());
    assert_eq!(lines(&directory.path().join("acks")).len(), 200);
    let mut last: HashMap<String, u64> = HashMap::new();
    for (id, _, data) in running.server.seen.lock().unwrap().iter() {
        let n = data["n"].as_u64().unwrap();
        let before = last.insert(id.clone(), n);
        assert!(
            before.is_none_or(|before| before <= n),
            "{id}: {n} came late"
        );
    }
}

#[test]
fn a_malformed_answer_is_asked_again_under_the_same_id() {
    let directory = tempfile::tempdir().unwrap();
    let running =
        serve(|_, attempt| (attempt == 0).then(|| (StatusCode::CREATED, "<html>").into_response()));
    input(directory.path(), &records(1, 1));
    let output = millrace(directory.path(), &running.url, &PLAIN)
        .output()
        .unwrap();
    assert_eq!(summary(&output)["accepted"], 1);
    let seen = running.server.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].1, seen[1].1);
}

#[test]
fn refused_and_unreadable_lines_are_in_the_rejects_file_with_status_and_reason() {
    let directory = tempfile::tempdir().unwrap();
    let running = serve(|id, _| {
        let problem = json!({"title": "rejected", "status": 422, "detail": "no stock"});
        (id == "bad").then(|| (StatusCode::UNPROCESSABLE_ENTITY, Json(problem)).into_response())
    });
    input(
        directory.path(),
        "{\"id\":\"bad\"}\n\n{broken\n{\"n\":1}\n{\"id\":\"good\"}",
    );
    let output = millrace(directory.path(), &running.url, &PLAIN)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let summary = summary(&output);
    assert_eq!(
        (&summary["accepted"], &summary["refused"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(summary["settled_to"], 5);
    assert_eq!(summary["reasons"]["422 no stock"], 1);
    let mut rejects = lines(&directory.path().join("in.ndjson.rejects.ndjson"));
    rejects.sort_by_key(|reject| reject["line"].as_u64());
    assert_eq!(
        rejects[0],
        json!({"line": 1, "status": 422, "reason": "no stock", "input": {"id": "bad"}})
    );
    assert_eq!(
        (&rejects[1]["line"], &rejects[1]["status"]),
        (&json!(3), &json!(400))
    );
    assert_eq!(rejects[1]["input"], "{broken");
    assert_eq!(rejects[2]["line"], 4);
}

#[test]
fn a_server_that_comes_back_gets_every_line() {
    let directory = tempfile::tempdir().unwrap();
    // The port is free again when the listener is dropped; nothing listens until the client has started.
    let at = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    input(directory.path(), &records(20, 5));
    let child = millrace(directory.path(), &format!("http://{at}"), &PLAIN)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The rejects file is created just before the first request.
    let created = directory.path().join("in.ndjson.rejects.ndjson");
    while !created.exists() {
        std::thread::yield_now();
    }
    let running = serve_at(at, |_, _| None);
    let output = child.wait_with_output().unwrap();
    assert_eq!(summary(&output)["accepted"], 20);
    assert_eq!(running.server.seen.lock().unwrap().len(), 20);
}

#[test]
fn a_server_that_stays_away_stops_the_run_and_refuses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    input(directory.path(), &records(20, 5));
    let output = millrace(directory.path(), "http://127.0.0.1:1", &PLAIN)
        .args(["--wait", "0s"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let summary = summary(&output);
    assert_eq!(
        (&summary["refused"], &summary["settled_to"]),
        (&json!(0), &json!(0))
    );
    assert!(summary["stopped"].as_str().unwrap().contains("no answer"));
}

#[test]
fn a_full_disk_stops_the_run_and_names_the_file() {
    for (option, fault) in [
        (
            "--acks",
            (|_, _| None) as fn(&str, usize) -> Option<Response>,
        ),
        ("--rejects", |_, _| {
            Some(StatusCode::UNPROCESSABLE_ENTITY.into_response())
        }),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let running = serve(fault);
        input(directory.path(), &records(20_000, 20_000));
        let output = millrace(directory.path(), &running.url, &PLAIN)
            .args([option, "/dev/full"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{option}");
        let stopped = summary(&output)["stopped"].as_str().unwrap().to_owned();
        assert!(stopped.contains("/dev/full"), "{stopped}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("every line up to 0 is settled"), "{told}");
        // It stopped long before the end of the input.
        assert!(running.server.seen.lock().unwrap().len() < 10_000);
    }
}

#[test]
fn the_input_is_never_an_output() {
    let directory = tempfile::tempdir().unwrap();
    let text = records(3, 3);
    input(directory.path(), &text);
    std::fs::hard_link(
        directory.path().join("in.ndjson"),
        directory.path().join("same"),
    )
    .unwrap();
    for option in ["--rejects", "--acks"] {
        let output = millrace(directory.path(), "http://127.0.0.1:1", &PLAIN)
            .args([option, "same"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
    let kept = std::fs::read_to_string(directory.path().join("in.ndjson")).unwrap();
    assert_eq!(kept, text);
}

#[test]
fn wrong_use_exits_with_2() {
    let directory = tempfile::tempdir().unwrap();
    input(directory.path(), "");
    for arguments in [
        &["in.ndjson", "--as", "order.Place"][..],
        &["in.ndjson", "--as", "order", "--id", "id"],
        &["in.ndjson", "--wait", "never"],
        &["in.ndjson", "--concurrency", "0"],
        &[],
    ] {
        let output = millrace(directory.path(), "http://127.0.0.1:1", arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
