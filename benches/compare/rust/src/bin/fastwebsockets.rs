//! An echo over fastwebsockets, as its own example is, on one thread.

use std::convert::Infallible;

use fastwebsockets::{OpCode, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

async fn echo(future: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = fastwebsockets::FragmentCollector::new(future.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

async fn serve(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, future) = upgrade::upgrade(&mut request)?;
    tokio::spawn(echo(future));
    Ok(response)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<Infallible, std::io::Error> {
    let port = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3900_u16);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(serve));
            let _ = connection.with_upgrades().await;
        });
    }
}
