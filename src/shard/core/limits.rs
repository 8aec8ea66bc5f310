//! The limits that a shard's core is held to, in the units in which it counts.

use std::time::Duration;

use ipnet::IpNet;

use crate::config::Config;
use crate::protocol::assembly;
use crate::rate::Rate;

/// The limits of every connection of a shard. Times are milliseconds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// What messages may be like.
    pub messages: assembly::Limits,
    /// Bytes of a request's head, its last empty line included.
    pub request_bytes_max: usize,
    /// Messages of one connection that are handled in one turn; the rest waits.
    pub turn_messages: u32,
    /// Bytes that may wait for one socket before its connection is no longer read.
    pub send_queue_bytes: usize,
    /// From accept to the end of the request's head, and from a plain request to its answer.
    pub handshake_timeout_ms: u64,
    /// From a message's first byte to its last.
    pub message_timeout_ms: u64,
    /// How long a socket may take no byte while something waits for it.
    pub send_timeout_ms: u64,
    /// How long a close waits for the peer's.
    pub close_timeout_ms: u64,
    /// Quiet time after which a connection is sent a Ping; 0 never.
    pub probe_after_ms: u64,
    /// How long a Ping waits for any byte.
    pub probe_timeout_ms: u64,
    /// Whether `/metrics` is answered.
    pub public_metrics: bool,
    /// The step in which all these times are kept.
    pub timer_tick_ms: u64,
    /// Messages, Pings and Pongs of one connection.
    pub message_rate: Option<Rate>,
    /// Upgrades from one address.
    pub upgrade_rate: Option<Rate>,
    /// Whether the application counts connections by address.
    pub counts_addresses: bool,
    /// Whose connections begin with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Whose forwarding headers are read.
    pub trusted_proxies: Vec<IpNet>,
}

impl Limits {
    /// The limits that `config` sets.
    pub fn new(config: &Config) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            messages: assembly::Limits {
                message_bytes_max: config.max_message,
                frames_max: u32::try_from(config.max_frames).unwrap_or(u32::MAX),
                binary: false,
                held_bytes_max: usize::MAX,
            },
            request_bytes_max: config.max_request,
            turn_messages: u32::try_from(config.turn_messages).unwrap_or(u32::MAX),
            send_queue_bytes: config.send_queue,
            handshake_timeout_ms: ms(config.handshake_timeout),
            message_timeout_ms: ms(config.message_timeout),
            send_timeout_ms: ms(config.send_timeout),
            close_timeout_ms: ms(config.close_timeout),
            probe_after_ms: ms(config.probe_after),
            probe_timeout_ms: ms(config.probe_timeout),
            public_metrics: config.public_metrics,
            timer_tick_ms: ms(config.timer_tick),
            message_rate: Rate::new(config.message_rate, config.message_burst),
            upgrade_rate: Rate::new(config.upgrade_rate_per_address, config.upgrade_rate_per_address),
            counts_addresses: config.connections_per_address > 0,
            proxy_protocol_from: config.proxy_protocol_from.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
        }
    }

    /// The limits of one of `shards` shards: the kernel spreads an address's connections evenly over them.
    pub fn share(mut self, shards: usize) -> Self {
        self.upgrade_rate = self.upgrade_rate.map(|rate| rate.share(shards));
        self
    }
}
