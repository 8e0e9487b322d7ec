//! The admin port over real sockets: what it answers, and what it does to visitors who misbehave.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::serve::{CONNECTIONS_MAX, HEADERS_DEADLINE};
use super::*;

const DEADLINE: Duration = Duration::from_secs(30);

struct Running {
    addr: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

async fn running(with: impl FnOnce(Admin) -> Admin) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let metrics = crate::metrics::install("test").unwrap();
    let admin = with(Admin::new("shoal-test", "1.0.0", metrics));
    let mut tasks = JoinSet::new();
    tasks.spawn(admin.serve(listener, shutdown.clone()));
    Running {
        addr,
        shutdown,
        tasks,
    }
}

async fn ask(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

#[tokio::test]
async fn readiness_follows_its_checks_and_liveness_does_not() {
    let broken = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&broken);
    let running = running(|admin| {
        admin.check("port", || Ok(())).check("store", move || {
            if seen.load(Ordering::Relaxed) {
                Err("disk is full".into())
            } else {
                Ok(())
            }
        })
    })
    .await;
    assert_eq!(ask(running.addr, "/livez").await, (200, "ok\n".into()));
    for path in ["/readyz", "/healthz"] {
        let (code, body) = ask(running.addr, path).await;
        assert_eq!(
            (code, body.as_str()),
            (503, "[-] store: disk is full\nnot ready\n")
        );
    }
    broken.store(false, Ordering::Relaxed);
    assert_eq!(ask(running.addr, "/readyz").await, (200, "ok\n".into()));
    let (code, body) = ask(running.addr, "/readyz?verbose").await;
    assert_eq!(
        (code, body.as_str()),
        (200, "[+] port: ok\n[+] store: ok\nok\n")
    );
}

#[tokio::test]
async fn status_is_json_and_metrics_are_text() {
    let running = running(|admin| admin.status(|| async { serde_json::json!({"peers": 3}) })).await;
    let (code, body) = ask(running.addr, "/status").await;
    let mut body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let uptime = body.as_object_mut().unwrap().remove("uptime_s");
    assert!(uptime.unwrap().is_u64());
    let expected = serde_json::json!({
        "name": "shoal-test", "version": "1.0.0", "ready": true, "status": {"peers": 3},
    });
    assert_eq!((code, body), (200, expected));
    let (code, body) = ask(running.addr, "/metrics").await;
    assert!(code == 200 && body.contains("shoal_build_info{"), "{body}");
    let (code, body) = ask(running.addr, "/").await;
    assert!(
        code == 200 && body.contains("<title>shoal-test</title>"),
        "{body}"
    );
    assert_eq!(ask(running.addr, "/elsewhere").await.0, 404);
}

#[tokio::test]
async fn a_status_that_hangs_is_answered_with_503() {
    let admin = Admin::new(
        "shoal-test",
        "1.0.0",
        crate::metrics::install("test").unwrap(),
    )
    .status(std::future::pending::<serde_json::Value>);
    let response = status(State(Arc::new(admin))).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_visitor_that_never_ends_its_headers_is_cut_off() {
    let running = running(|admin| admin).await;
    let mut slow = TcpStream::connect(running.addr).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost:")
        .await
        .unwrap();
    let mut text = String::new();
    let closed = tokio::time::timeout(HEADERS_DEADLINE + DEADLINE, slow.read_to_string(&mut text));
    closed.await.expect("the connection stays open").ok();
    assert!(!text.contains("200 OK"), "{text}");
}

#[tokio::test]
async fn visitors_beyond_the_limit_are_closed_at_once_and_others_stay() {
    let running = running(|admin| admin).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    let mut extra = TcpStream::connect(running.addr).await.unwrap();
    let read = tokio::time::timeout(DEADLINE, extra.read(&mut [0; 16]))
        .await
        .unwrap();
    assert!(
        matches!(read, Ok(0) | Err(_)),
        "the extra visitor was served"
    );
    held[0].write_all(b"Host: test\r\n\r\n").await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(DEADLINE, held[0].read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert!(text.ends_with("ok\n"), "{text}");
}

#[tokio::test]
async fn shutdown_closes_the_port_and_ends_the_task() {
    let mut running = running(|admin| admin).await;
    assert_eq!(ask(running.addr, "/livez").await.0, 200);
    running.shutdown.cancel();
    tokio::time::timeout(DEADLINE, running.tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(running.addr).await.is_err());
}
