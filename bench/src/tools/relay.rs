//! A proxy that forwards bytes and is bad on purpose, to test whether the bench notices.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    listen: Ipv4Addr,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    socket: PathBuf,
    /// Sleep this long before each request.
    #[arg(long, default_value_t = 0)]
    sleep_us: u64,
    /// Compute this many useless rounds before each request.
    #[arg(long, default_value_t = 0)]
    spin: u64,
}

#[derive(Clone, Copy)]
struct Delay {
    sleep: Duration,
    spin: u64,
}

pub(crate) fn serve(args: &Args) -> Result<()> {
    let listener = TcpListener::bind((args.listen, args.port))?;
    let delay = Delay { sleep: Duration::from_micros(args.sleep_us), spin: args.spin };
    for client in listener.incoming() {
        let (client, socket) = (client?, args.socket.clone());
        // A client that disconnects early is no failure of the relay.
        std::thread::spawn(move || pass(client, &socket, delay));
    }
    Ok(())
}

fn pass(mut client: TcpStream, socket: &Path, delay: Delay) -> Result<()> {
    client.set_nodelay(true)?;
    let mut tenant = UnixStream::connect(socket)?;
    let (mut answers, mut back) = (tenant.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
    // The load's requests are small and wait for their responses, so one read is one request.
    let mut bytes = [0; 4_096];
    loop {
        let count = client.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        delay.act();
        tenant.write_all(&bytes[..count])?;
    }
}

impl Delay {
    fn act(self) {
        if !self.sleep.is_zero() {
            std::thread::sleep(self.sleep);
        }
        for turn in 0..self.spin {
            std::hint::black_box(turn);
        }
    }
}
