//! The firewall of an installation, in the real kernel: tenants do not reach each other while the engine changes its own
//! rules. Needs root.

use std::process::{Child, Command, Stdio};

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::spec::Spec;
use testkit::eventually;

use crate::process::{PROGRAM, Process};
use crate::support::{Install, PATIENCE, Running, apply, spec, with_install};

const NETWORKS: u8 = 40;
const PORT: u16 = 8090;

fn firewall(install: &Install) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("firewall").env_clear();
    command.env("CIAL_INSTALL", install.name.as_str()).env("CIAL_SUBNET_POOL", &install.pool);
    command
}

fn has_rule(install: &Install) -> bool {
    firewall(install).arg("check").status().unwrap().success()
}

async fn start(install: &Install) -> Process {
    let process = Process(firewall(install).spawn().unwrap());
    let is_set = eventually("the rule", PATIENCE, async || Ok(has_rule(install)));
    is_set.await.unwrap();
    process
}

/// Waits until the process handles SIGTERM: the rule may be there already, and does not tell whether it has come up.
async fn stop(mut process: Process) {
    let is_handled = async || catches(&process.0, Signal::SIGTERM);
    eventually("the signal handler", PATIENCE, is_handled).await.unwrap();
    signal(&process.0, Signal::SIGTERM);
    let ended = async || Ok(process.0.try_wait()?.is_some());
    eventually("the end", PATIENCE, ended).await.unwrap();
}

fn signal(process: &Child, signal: Signal) {
    kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
}

/// Whether a process has a handler for a signal. Before it has, the signal ends it.
fn catches(process: &Child, signal: Signal) -> anyhow::Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("SigCgt");
    let caught = u64::from_str_radix(mask.trim(), 16).expect("a mask of signals");
    Ok(caught & (1 << (signal as u64 - 1)) != 0)
}

/// Runs a program of Perl in the network of a container.
fn in_network_of(pid: i64, program: &str) -> Process {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).args(["perl", "-e", program]);
    Process(command.stdout(Stdio::piped()).spawn().unwrap())
}

/// Returns the process and the address of a tenant's container.
async fn container(install: &Install, running: &Running, spec: &Spec) -> (i64, String) {
    running.run(spec).await;
    running.until_phase(spec.id, protocol::orchestrator::Phase::Ready).await;
    let found = install.client.inspect_container(&spec.id.container(), None).await.unwrap();
    let networks = found.network_settings.unwrap().networks.unwrap();
    let address = networks[&spec.id.network()].ip_address.clone().unwrap();
    (found.state.unwrap().pid.unwrap(), address)
}

fn listen() -> String {
    format!(
        "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => {PORT}, Listen => 50) or die $!;
        while (my $c = $s->accept) {{ close $c }}"
    )
}

/// Connects again and again, until SIGTERM; then prints the attempts and the successes.
fn connect(address: &str) -> String {
    format!(
        r#"use Socket; use Fcntl; my ($tried, $reached) = (0, 0);
        $SIG{{TERM}} = sub {{ print "$tried $reached"; exit }};
        my $to = pack_sockaddr_in({PORT}, inet_aton("{address}"));
        while (1) {{
            socket(my $s, PF_INET, SOCK_STREAM, 0) or die $!;
            fcntl($s, F_SETFL, O_NONBLOCK);
            connect($s, $to);
            vec(my $ready = "", fileno($s), 1) = 1;
            my $is_done = select(undef, $ready, undef, 0.005) > 0;
            $reached++ if $is_done && unpack("i", getsockopt($s, SOL_SOCKET, SO_ERROR)) == 0;
            $tried++; close $s;
        }}"#
    )
}

/// Creates networks in the second half of the pool, a few at a time, as concurrent creates of tenants do. Restarts the
/// firewall meanwhile, and returns its last process.
async fn create_networks(install: &Install, mut firewall: Process) -> Process {
    let base = install.pool.replace(".0/22", "");
    let (head, third) = base.rsplit_once('.').unwrap();
    let third = third.parse::<u8>().unwrap();
    let create = async |n: u8| {
        let subnet = format!("{head}.{}.{}/29", third + 2 + n / 32, n % 32 * 8);
        let request = NetworkCreateRequest {
            name: format!("{}-{n}", install.name),
            labels: Some(install.labels()),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig { subnet: Some(subnet), ..IpamConfig::default() }]),
                ..Ipam::default()
            }),
            ..NetworkCreateRequest::default()
        };
        install.client.create_network(request).await.unwrap();
    };
    for first in (0..NETWORKS).step_by(4) {
        let restart = async {
            stop(firewall).await;
            start(install).await
        };
        let created = futures_util::future::join_all((first..first + 4).map(create));
        (firewall, _) = tokio::join!(restart, created);
    }
    firewall
}

#[tokio::test]
async fn no_tenant_reaches_another_while_networks_are_created_and_the_firewall_restarts() {
    with_install(async |install| {
        let firewall = start(install).await;
        let running = install.controller();
        let (one, _) = container(install, &running, &spec("one", "")).await;
        let (other, address) = container(install, &running, &spec("other", "")).await;
        let _listener = in_network_of(other, &listen());
        // From the host, which is no tenant: something listens there.
        let reached = eventually("the listener", PATIENCE, async || {
            Ok(std::net::TcpStream::connect((address.as_str(), PORT)).is_ok())
        });
        reached.await.unwrap();
        let client = in_network_of(one, &connect(&address));
        let _firewall = create_networks(install, firewall).await;
        signal(&client.0, Signal::SIGTERM);
        let mut client = client;
        let mut output = String::new();
        std::io::Read::read_to_string(client.0.stdout.as_mut().unwrap(), &mut output).unwrap();
        let (tried, reached) = output.split_once(' ').expect("two numbers");
        assert!(tried.parse::<u32>().unwrap() > 20, "{output}");
        assert_eq!(reached, "0", "connections of {tried} reached another tenant");
    })
    .await;
}

#[tokio::test]
async fn the_rule_outlives_a_kill_and_ends_with_a_stop_once_no_tenant_has_a_network() {
    with_install(async |install| {
        assert!(!has_rule(install));
        let mut killed = start(install).await;
        killed.0.kill().unwrap();
        killed.0.wait().unwrap();
        assert!(has_rule(install), "a killed process leaves tenants apart");
        let (running, tenant) = (install.controller(), spec("acme", ""));
        running.controller.operations.apply(apply(&tenant, false)).await.unwrap();
        stop(start(install).await).await;
        assert!(has_rule(install), "a restart of the service, or an upgrade");
        running.controller.operations.delete(tenant.id).await.unwrap();
        stop(start(install).await).await;
        assert!(!has_rule(install));
    })
    .await;
}
