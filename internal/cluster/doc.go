// Package cluster knows which nodes there are, and has what a lost one was
// running taken over by one of the others.
//
// # Leases
//
// A node, which is one process of athena serve, proves that it is alive by one
// record in the store: its lease, written anew every fifth of Options.Lease by
// compare-and-swap on its revision. There is one for the node and none for each
// stream: a thousand analyses cost the store as much as one, they are lost or
// kept together, since they live in one process, and a survivor that reads one
// record knows of all of them. Which process runs a stream stands in the
// stream's own record, by the node's name and epoch.
//
// Nobody compares clocks. An observer notes when, by its own monotonic clock,
// it first saw a revision, and takes the node for dead when the revision is
// still the same a whole lease later. What it reads may come from a copy of the
// store that lags, so it writes its own lease first: a copy that has this write
// has everything before it, and one that hasn't proves nothing and is not
// looked at.
//
// Being taken for dead is not yet being gone. The observer removes the lease,
// by compare-and-swap on the revision it saw, and only a node whose lease is
// removed is gone. So a node that renewed in the last moment stays, and one
// that was merely stopped (SIGSTOP, a suspended machine, a long pause of the
// virtual machine) finds its lease missing when it wakes. It then takes a new
// one, with the epoch it had, since what nobody took meanwhile is still its own,
// and Options.Verify stops what is not.
//
// # Who acts
//
// A record whose node is gone, or whose node has started anew since, or that
// was handed over, is an orphan. Each node finds orphans by itself, and the
// hash of stream and node (rendezvous hashing) ranks the nodes for each stream:
// the first acts at once, the others a quarter of a lease later each, if there
// is then still something to do. The ranks only spare the store work and spread
// the orphans. That one node alone takes a stream is the compare-and-swap of
// its record in Options.TakeOver, and its old owner, if it is alive after all,
// learns it when its next append to the log conflicts.
//
// # Partitions, and a store without a majority
//
// A lease that can't be renewed because the store has no majority is not lost,
// since without a majority nobody can remove it. The side of a partition that
// has the majority takes over what the other side was running; the other side
// judges nobody and goes on for its own clients, until the partition heals and
// it finds its lease gone. Two nodes that lose sight of each other both go on.
//
// After the store was away, for whatever reason, everybody may have been kept
// from renewing, so all leases count from the moment it is back. There is one
// exception, for the commonest reason: the node that led the store has died,
// and until another was elected (four to nine seconds in nats-server's raft) a
// lease has run out already. A node whose gossip nobody has heard for a whole
// lease, as all say who are heard themselves, is cut off from everybody if it
// lives, and so from the store. It gets two more readings to show a renewal, and
// not a whole lease. That the others were heard all along shows that it is not
// the network that was away.
//
// # Gossip
//
// Every fifth of a lease each node also tells all others on core NATS, which
// needs no majority, that it is there, whom it doesn't hear, and what it knows:
// Facts. By itself this decides nothing. It is what Members and Others report
// while the store is away, and carries hints such as open breakers.
package cluster
