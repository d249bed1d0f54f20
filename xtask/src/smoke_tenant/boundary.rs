//! What neither the tenant's own app nor anyone else inside can do.

use anyhow::Result;

use super::processes;
use super::report::Report;
use super::stage::Tenant;

pub(crate) async fn check(report: &mut Report, tenant: &Tenant) -> Result<()> {
    check_files(report, tenant).await?;
    check_doors(report, tenant).await?;
    check_calls(report, tenant).await
}

/// The boundary itself: each must end in "Permission denied", not in "not there".
async fn check_files(report: &mut Report, tenant: &Tenant) -> Result<()> {
    let edge = processes::pid_of(tenant, "edge").await?;
    for command in [
        "cat /opt/cial-core/edge".to_owned(),
        "ls /opt/cial-core".to_owned(),
        "ls /var/lib/cial".to_owned(),
        "ls /run/cial/core".to_owned(),
        "ls /run/cial/ingress".to_owned(),
        "cat /run/cial/secrets/sso-key".to_owned(),
        format!("cat /proc/{edge}/environ"),
        format!("cat /proc/{edge}/mem"),
        format!("ls /proc/{edge}/fd/"),
    ] {
        let ran = tenant.sh("agent", &command).await?;
        let denied = ran.code != 0 && ran.out.contains("Permission denied");
        let what = format!("agent cannot {}", command.replace(&edge, "<edge>"));
        report.holds("C5", &what, "Permission denied", ran.out, denied);
    }
    let ran = tenant.sh("agent", "ls /var/run/docker.sock /run/docker.sock").await?;
    report.holds(
        "O9",
        "no engine's socket",
        "No such file",
        &ran.out,
        ran.out.matches("No such").count() == 2,
    );
    for (user, path, allowed) in [
        ("root", "/x", false),
        ("agent", "/opt/cial-platform/x", false),
        ("agent", "/home/agent/files/x", true),
        ("agent", "/tmp/x", true),
        ("cial", "/var/lib/cial/x", true),
        ("cial", "/tmp/x", false),
        ("agent", "/dev/shm/../../var/lib/cial/x", false),
    ] {
        let ran = tenant.sh(user, &format!("touch {path} && rm {path}")).await?;
        let what = format!("{user} {} {path}", if allowed { "may write" } else { "cannot write" });
        report.holds("C22", &what, allowed, ran.out, (ran.code == 0) == allowed);
    }
    Ok(())
}

async fn check_doors(report: &mut Report, tenant: &Tenant) -> Result<()> {
    let tables = tenant.sh("root", "cat /proc/net/tcp /proc/net/tcp6").await?.out;
    let open = listening(&tables);
    let expected = "0.0.0.0:8080, 127.0.0.1:3000, 127.0.0.1:3001";
    report.same("C10", "who listens on TCP", expected, open.join(", "));
    for address in ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"] {
        let program = format!(
            r#"use Socket; use Socket qw(inet_pton AF_INET6 pack_sockaddr_in6);
            my $six = "{address}" =~ /:/;
            socket(my $s, $six ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or print("refused: $!"), exit;
            setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1); setsockopt($s, SOL_SOCKET, 15, 1);
            my $to = $six ? pack_sockaddr_in6(8080, inet_pton(AF_INET6, "{address}"))
                          : pack_sockaddr_in(8080, inet_aton("{address}"));
            print bind($s, $to) && listen($s, 1) ? "bound" : "refused: $!";"#
        );
        let ran = tenant.perl("agent", &program).await?;
        let what = format!("agent cannot listen on {address}:8080");
        report.holds("C11", &what, "refused", &ran.out, ran.out.starts_with("refused"));
    }
    Ok(())
}

/// Address and port of every listening socket, from the kernel's tables.
fn listening(tables: &str) -> Vec<String> {
    let read = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (&local, &state) = (fields.get(1)?, fields.get(3)?);
        let (address, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == "0A").then(|| format!("{}:{port}", address_of(address)))
    };
    let mut open: Vec<_> = tables.lines().filter_map(read).collect();
    open.sort();
    // The engine's own name server has a socket in some networks.
    open.retain(|address| !address.starts_with("127.0.0.11:"));
    open
}

fn address_of(hex: &str) -> String {
    match u32::from_str_radix(hex, 16) {
        Ok(number) if hex.len() == 8 => std::net::Ipv4Addr::from(number.swap_bytes()).to_string(),
        Ok(_) | Err(_) => format!("[{hex}]"),
    }
}

/// System calls that the profile takes away. The numbers are the same on all architectures that we run on.
async fn check_calls(report: &mut Report, tenant: &Tenant) -> Result<()> {
    const AF_VSOCK: u32 = 40;
    const AF_ALG: u32 = 38;
    for (what, call) in [
        ("io_uring_setup", "syscall(425, 1, my $p = \"\\0\" x 120)".to_owned()),
        ("io_uring_enter", "syscall(426, 0, 0, 0, 0, 0, 0)".to_owned()),
        ("io_uring_register", "syscall(427, 0, 0, 0, 0)".to_owned()),
        ("a vsock", format!("socket(my $s, {AF_VSOCK}, 1, 0)")),
        ("a kernel crypto socket", format!("socket(my $s, {AF_ALG}, 5, 0)")),
    ] {
        let test =
            format!("my $r = {call}; print((defined $r && $r ne '-1' && $r) ? 'done' : \"$!\");");
        let ran = tenant.perl("agent", &test).await?;
        let denied = ran.out.contains("not permitted");
        report.holds(
            "O6",
            &format!("agent cannot have {what}"),
            "Operation not permitted",
            ran.out,
            denied,
        );
    }
    for command in ["unshare --user true", "unshare --map-root-user --mount true"] {
        let ran = tenant.sh("agent", command).await?;
        report.holds("O6", &format!("agent cannot {command}"), "refused", ran.out, ran.code != 0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_from_the_kernels_tables() {
        let tables = "  sl  local_address rem_address   st\n\
            0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000\n\
            1: 00000000:1F90 00000000:0000 0A 00000000:00000000\n\
            2: 0100007F:1F90 0100007F:1234 01 00000000:00000000\n\
            3: 00000000000000000000000000000000:0050 00000000:0000 0A 0\n";
        assert_eq!(
            listening(tables),
            ["0.0.0.0:8080", "127.0.0.1:3000", "[00000000000000000000000000000000]:80"]
        );
    }
}
