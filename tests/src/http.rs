//! An outside over HTTP that can be away.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Serves on a port of its own until it is dropped, and on the same one whenever it comes back.
pub struct Server {
    address: SocketAddr,
    router: Router,
    /// None while it is down.
    up: Option<(DropGuard, JoinHandle<()>)>,
}

impl Server {
    /// Serves these routes.
    pub async fn start(router: Router) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut server = Self {
            address: listener.local_addr()?,
            router,
            up: None,
        };
        server.serve(listener);
        Ok(server)
    }

    fn serve(&mut self, listener: TcpListener) {
        let (router, down) = (self.router.clone(), CancellationToken::new());
        let task = tokio::spawn({
            let down = down.clone();
            async move {
                // Without grace: a server that goes down breaks its connections.
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    () = down.cancelled() => {}
                }
            }
        });
        self.up = Some((down.drop_guard(), task));
    }

    /// Nobody listens on the port any longer.
    pub async fn go_down(&mut self) {
        if let Some((up, task)) = self.up.take() {
            drop(up);
            let _ = task.await;
        }
    }

    /// Listens on the same port again.
    pub async fn come_back(&mut self) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        self.serve(socket.listen(64)?);
        Ok(())
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
