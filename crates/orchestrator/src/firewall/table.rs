//! One table of the kernel's packet filter (nf_tables), written and read over netlink.

use std::ffi::{CStr, CString};
use std::io;
use std::net::Ipv4Addr;

use netlink_bindings::nftables::{
    Chained, CmpOps, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, Registers, Request,
    VerdictCode,
};
use netlink_bindings::utils::Pusher;
use netlink_socket2::NetlinkSocket;

const CHAIN: &CStr = c"forward";
const CHAIN_TYPE: &CStr = c"filter";
/// `NFPROTO_IPV4`: networks of tenants have no IPv6.
const IPV4: u8 = 2;
/// `NF_INET_FORWARD`: packets between two interfaces of the machine.
const FORWARD_HOOK: u32 = 2;
/// Before the chains of the engine, which have priority 0. A drop is final whatever they say.
const PRIORITY: i32 = -10;
/// The address of the sender in an IPv4 header.
const SOURCE_OFFSET: u32 = 12;
/// `IFNAMSIZ`: names of interfaces and their kinds are padded with zeros.
const NAME_BYTES: usize = 16;
/// More than the messages of one transaction.
const SEQUENCE_NUMBERS: u32 = 16;

/// The rule: it drops packets from `first` to `last` that leave through a bridge other than `uplinks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DropRule {
    pub(super) first: Ipv4Addr,
    pub(super) last: Ipv4Addr,
    pub(super) uplinks: Vec<String>,
}

/// The table of one installation. Nobody else writes to it.
pub(super) struct FilterTable {
    name: CString,
    socket: NetlinkSocket,
}

impl FilterTable {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        Ok(Self { name: CString::new(name)?, socket: NetlinkSocket::new() })
    }

    /// Replaces the whole table in one transaction: no packet passes between the old rule and the new one.
    ///
    /// # Errors
    /// The kernel refuses: no nf_tables, or not the right to change the network.
    pub(super) fn replace(&mut self, rule: &DropRule) -> io::Result<()> {
        let mut batch = Chained::new(self.socket.reserve_seq(SEQUENCE_NUMBERS));
        batch.request().op_batch_begin_do(&batch_header());
        // A table can be deleted only if it exists.
        batch.request().set_create().op_newtable_do(&header()).encode().push_name(&self.name);
        batch.request().op_deltable_do(&header()).encode().push_name(&self.name);
        batch.request().set_create().op_newtable_do(&header()).encode().push_name(&self.name);
        batch
            .request()
            .set_create()
            .op_newchain_do(&header())
            .encode()
            .push_table(&self.name)
            .push_name(CHAIN)
            .nested_hook()
            .push_num(FORWARD_HOOK)
            .push_priority(PRIORITY)
            .end_nested()
            .push_policy(VerdictCode::Accept as u32)
            .push_type(CHAIN_TYPE);
        let mut request = batch.request().set_create().set_append().op_newrule_do(&header());
        let rule_attributes = request.encode().push_table(&self.name).push_chain(CHAIN);
        let expressions = rule_attributes.nested_expressions();
        let expressions = load_source(expressions);
        let expressions = compare(expressions, CmpOps::Gte, &rule.first.octets());
        let expressions = compare(expressions, CmpOps::Lte, &rule.last.octets());
        let expressions = load_meta(expressions, MetaKeys::Oifkind);
        let mut expressions = compare(expressions, CmpOps::Eq, &padded("bridge"));
        for uplink in &rule.uplinks {
            expressions = load_meta(expressions, MetaKeys::Oifname);
            expressions = compare(expressions, CmpOps::Neq, &padded(uplink));
        }
        drop_packet(expressions).end_nested();
        drop(request);
        batch.request().op_batch_end_do(&batch_header());
        self.socket.request_chained(&batch.finalize())?.recv_all()?;
        Ok(())
    }

    /// # Errors
    /// The kernel refuses, or there is no table.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        let mut batch = Chained::new(self.socket.reserve_seq(SEQUENCE_NUMBERS));
        batch.request().op_batch_begin_do(&batch_header());
        batch.request().op_deltable_do(&header()).encode().push_name(&self.name);
        batch.request().op_batch_end_do(&batch_header());
        self.socket.request_chained(&batch.finalize())?.recv_all()?;
        Ok(())
    }

    /// Whether the rule is in the kernel.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn is_present(&mut self) -> io::Result<bool> {
        let mut request = Request::new().op_getrule_dump(&header());
        request.encode().push_table(&self.name).push_chain(CHAIN);
        let mut replies = self.socket.request(&request)?;
        let mut rules = 0;
        while let Some(reply) = replies.recv() {
            reply?;
            rules += 1;
        }
        Ok(rules == 1)
    }
}

fn header() -> Nfgenmsg {
    Nfgenmsg { nfgen_family: IPV4, ..Nfgenmsg::default() }
}

/// A transaction names the subsystem that it is for: `NFNL_SUBSYS_NFTABLES`.
fn batch_header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(10);
    header
}

fn padded(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

fn load_source<P: Pusher>(expressions: PushExprListAttrs<P>) -> PushExprListAttrs<P> {
    expressions
        .nested_elem()
        .nested_data_payload()
        .push_dreg(Registers::Reg1 as u32)
        .push_base(PayloadBase::NetworkHeader as u32)
        .push_offset(SOURCE_OFFSET)
        .push_len(4)
        .end_nested()
        .end_nested()
}

fn load_meta<P: Pusher>(expressions: PushExprListAttrs<P>, key: MetaKeys) -> PushExprListAttrs<P> {
    expressions
        .nested_elem()
        .nested_data_meta()
        .push_dreg(Registers::Reg1 as u32)
        .push_key(key as u32)
        .end_nested()
        .end_nested()
}

fn compare<P: Pusher>(
    expressions: PushExprListAttrs<P>,
    operator: CmpOps,
    value: &[u8],
) -> PushExprListAttrs<P> {
    expressions
        .nested_elem()
        .nested_data_cmp()
        .push_sreg(Registers::Reg1 as u32)
        .push_op(operator as u32)
        .nested_data()
        .push_value(value)
        .end_nested()
        .end_nested()
        .end_nested()
}

fn drop_packet<P: Pusher>(expressions: PushExprListAttrs<P>) -> PushExprListAttrs<P> {
    expressions
        .nested_elem()
        .nested_data_immediate()
        .push_dreg(Registers::RegVerdict as u32)
        .nested_data()
        .nested_verdict()
        .push_code(VerdictCode::Drop as u32)
        .end_nested()
        .end_nested()
        .end_nested()
        .end_nested()
}
