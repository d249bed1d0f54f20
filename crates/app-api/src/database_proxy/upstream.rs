//! The database server, as a client's bytes reach it.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::startup::CancelKey;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The time that the server has to take a request to cancel.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Clone, Debug)]
enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// The server and the database of a URL.
#[derive(Clone, Debug)]
pub struct Upstream {
    addresses: Vec<Address>,
    pub(super) database: String,
}

/// The URL names no host or no database.
#[derive(Debug, thiserror::Error)]
#[error("must look like postgres://cial@postgres:5432/cial")]
pub struct InvalidUrl;

impl FromStr for Upstream {
    type Err = InvalidUrl;

    fn from_str(url: &str) -> Result<Self, InvalidUrl> {
        let config: Config = url.parse().map_err(|_| InvalidUrl)?;
        let ports = config.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let hosts = config.get_hosts().iter().enumerate();
        let addresses: Vec<_> = hosts
            .map(|(at, host)| match host {
                Host::Tcp(name) => Address::Tcp(name.clone(), port(at)),
                Host::Unix(folder) => Address::Unix(folder.join(format!(".s.PGSQL.{}", port(at)))),
            })
            .collect();
        let database = config.get_dbname().or(config.get_user()).map(str::to_owned);
        match database {
            Some(database) if !addresses.is_empty() => Ok(Self { addresses, database }),
            _ => Err(InvalidUrl),
        }
    }
}

impl Upstream {
    /// Connects to the first address that answers in time.
    ///
    /// # Errors
    /// That of the last address.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in &self.addresses {
            match timeout(CONNECT_TIMEOUT, address.connect()).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    /// Requests that the query under way in the session of `key` ends, and waits until the server has taken the request.
    /// As in Postgres, there is no answer.
    pub(super) async fn cancel(&self, key: &CancelKey) {
        let request = async {
            let mut server = self.connect().await?;
            server.write_all(&key.request()).await?;
            server.read(&mut [0]).await
        };
        if let Ok(Err(error)) = timeout(CANCEL_TIMEOUT, request).await {
            tracing::debug!(%error, "cancel request failed");
        }
    }
}

impl Address {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_servers_and_a_database() {
        for (url, expected) in [
            ("postgres://cial@postgres:5432/cial", r#"[Tcp("postgres", 5432)] cial"#),
            ("postgres://cial@db", r#"[Tcp("db", 5432)] cial"#),
            ("postgres://a:1,b:2/x", r#"[Tcp("a", 1), Tcp("b", 2)] x"#),
            ("postgres:///x?host=/run/pg", r#"[Unix("/run/pg/.s.PGSQL.5432")] x"#),
        ] {
            let Upstream { addresses, database } = url.parse().unwrap();
            assert_eq!(format!("{addresses:?} {database}"), expected, "{url}");
        }
        for url in ["", "postgres:///x", "postgres://db", "http://db/x"] {
            assert!(url.parse::<Upstream>().is_err(), "{url}");
        }
    }
}
