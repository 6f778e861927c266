//! A process that answers over HTTP, for suites that ask it.

use anyhow::Result;
use millrace::http::api::Api;
use millrace::http::health::Health;
use millrace::http::openapi::About;
use millrace::http::server;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Answers until it is dropped.
pub(crate) struct Site {
    pub(crate) url: String,
    _stop: DropGuard,
}

impl Site {
    pub(crate) async fn serve(api: Api) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, health) = (CancellationToken::new(), Health::default());
        let routes = server::Routes::new(&health);
        let about = About {
            title: "Halls",
            version: "1",
            says: "",
        };
        routes.open(api, &about);
        let shutdown = stop.clone();
        tokio::spawn(async move { server::serve(listener, &health, routes, shutdown).await });
        Ok(Self {
            url,
            _stop: stop.drop_guard(),
        })
    }
}
