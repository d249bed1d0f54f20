//! Limits of the tenant's own app: files, listeners and system calls that its user is denied.

use anyhow::Result;
use e2e::Checks;
use testkit::engine::TenantContainer;

use super::processes;

pub(crate) async fn check(checks: &mut Checks, tenant: &TenantContainer) -> Result<()> {
    check_files(checks, tenant).await?;
    check_listeners(checks, tenant).await?;
    check_calls(checks, tenant).await
}

/// The boundary itself: each access must end in "Permission denied", not in "No such file".
async fn check_files(checks: &mut Checks, tenant: &TenantContainer) -> Result<()> {
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
        let ran = tenant.exec_shell("agent", &command).await?;
        let denied = ran.exit_code != 0 && ran.text.contains("Permission denied");
        let what = format!("agent cannot {}", command.replace(&edge, "<edge>"));
        checks.holds(&what, "Permission denied", ran.text, denied);
    }
    let ran = tenant.exec_shell("agent", "ls /var/run/docker.sock /run/docker.sock").await?;
    checks.holds(
        "no engine's socket",
        "No such file",
        &ran.text,
        ran.text.matches("No such").count() == 2,
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
        let ran = tenant.exec_shell(user, &format!("touch {path} && rm {path}")).await?;
        let what = format!("{user} {} {path}", if allowed { "may write" } else { "cannot write" });
        checks.holds(&what, allowed, ran.text, (ran.exit_code == 0) == allowed);
    }
    Ok(())
}

async fn check_listeners(checks: &mut Checks, tenant: &TenantContainer) -> Result<()> {
    let tables = tenant.exec_shell("root", "cat /proc/net/tcp /proc/net/tcp6").await?.text;
    let open = listening(&tables);
    let expected = "0.0.0.0:8080, 127.0.0.1:3000, 127.0.0.1:3001";
    checks.equal("the TCP listeners", expected, open.join(", "));
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
        let ran = tenant.exec_perl("agent", &program).await?;
        let what = format!("agent cannot listen on {address}:8080");
        checks.holds(&what, "refused", &ran.text, ran.text.starts_with("refused"));
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
async fn check_calls(checks: &mut Checks, tenant: &TenantContainer) -> Result<()> {
    const AF_VSOCK: u32 = 40;
    const AF_ALG: u32 = 38;
    for (what, call) in [
        ("io_uring_setup", "syscall(425, 1, my $p = \"\\0\" x 120)".to_owned()),
        ("io_uring_enter", "syscall(426, 0, 0, 0, 0, 0, 0)".to_owned()),
        ("io_uring_register", "syscall(427, 0, 0, 0, 0)".to_owned()),
        ("a vsock", format!("socket(my $s, {AF_VSOCK}, 1, 0)")),
        ("a kernel crypto socket", format!("socket(my $s, {AF_ALG}, 5, 0)")),
        // Files in another subvolume are in no quota group.
        ("a btrfs subvolume", "ioctl(STDIN, 0x5000940e, my $p = \"\\0\" x 4096)".to_owned()),
        ("a btrfs snapshot", "ioctl(STDIN, 0x50009417, my $p = \"\\0\" x 4096)".to_owned()),
        // Files of another project, or of none, are outside the limits of the tenant's project.
        ("another project", "ioctl(STDIN, 0x401c5820, my $p = \"\\0\" x 28)".to_owned()),
        ("another flag of a file", "ioctl(STDIN, 0x40086602, my $p = \"\\0\" x 8)".to_owned()),
    ] {
        let test =
            format!("my $r = {call}; print((defined $r && $r ne '-1' && $r) ? 'done' : \"$!\");");
        let ran = tenant.exec_perl("agent", &test).await?;
        let denied = ran.text.contains("not permitted");
        checks.holds(
            &format!("agent cannot have {what}"),
            "Operation not permitted",
            ran.text,
            denied,
        );
    }
    for (what, call) in [
        ("a copy that shares blocks", "0x40049409"),
        ("a window's size", "0x5413"),
        ("the flags of a file", "0x80086601"),
        ("the attributes of a file", "0x801c581f"),
    ] {
        let test = format!("ioctl(STDIN, {call}, my $p = \"\\0\" x 64); print \"$!\";");
        let ran = tenant.exec_perl("agent", &test).await?;
        let passed = !ran.text.contains("not permitted");
        checks.holds(&format!("agent may ask for {what}"), "passed to the file", ran.text, passed);
    }
    for command in ["unshare --user true", "unshare --map-root-user --mount true"] {
        let ran = tenant.exec_shell("agent", command).await?;
        checks.holds(&format!("agent cannot {command}"), "refused", ran.text, ran.exit_code != 0);
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
