//! What a shard counts equals what the model does, at every turn.

use rollcall::metrics::ShardMetrics;

use crate::model::Model;

pub fn check(shard: usize, metrics: &ShardMetrics, open: u64, model: &Model) -> Result<(), String> {
    let by_status = model.by_status[shard];
    let told = metrics.users_by_status.each_ref().map(|cell| cell.get());
    if told != by_status || metrics.users_current.get() != by_status.iter().sum::<u64>() {
        let users = metrics.users_current.get();
        return Err(format!("shard {shard} counts {told:?}, {users} users, but they are {by_status:?}"));
    }
    if metrics.connections_current.get() != open {
        let connections = metrics.connections_current.get();
        return Err(format!("shard {shard} counts {connections} connections, but {open} are open"));
    }
    if metrics.panics_total.get() != 0 {
        return Err(format!("shard {shard} met a panic"));
    }
    Ok(())
}
