// Package backbone is the floor that everything between nodes, and everything
// that outlives a process, stands on: NATS with JetStream, embedded in this
// process by default.
//
// It knows subjects, streams and bytes. Of the events it carries it knows the
// numbers of the first and last one in a batch, and nothing else; what they
// mean is internal/stream's affair. It offers
//
//   - live subjects (athena.live.<id>): core NATS, at most once, in order. What
//     is dropped is counted and told (Options.OnDrop), never silently lost,
//     since the floor above repairs a hole by asking again;
//   - the log (athena.log.<id>): one JetStream stream for all, in batches,
//     appended under an expectation, so that of two writers one fails, and read
//     by batched direct get, without a consumer;
//   - messages between nodes on topics (athena.<topic>): questions to the one
//     node that serves a name, with an answer at once where there is none, to
//     all nodes, and news; the history of a running stream is asked for so;
//   - records: running jobs, their requests, leases of nodes, keys, and this
//     node's epoch, each replaced by compare-and-swap where several may want to.
//
// The first and third are the bus, which needs the other nodes only to reach
// them. The second and fourth are the store.
//
// # Alone, in a cluster, and elsewhere
//
// A node that is alone has its server to itself: it listens nowhere, and bus
// and store work as long as the process does. Live messages that nobody is
// subscribed to cost nothing.
//
// In a cluster (Options.Cluster) each node's server has routes to all others,
// with mutual TLS and a password that come from a secret all nodes know, or
// with certificates of an authority of their own. The bus works between those
// that reach each other. The store belongs to all nodes together, and takes
// writes while more than half of those that count are there: that is the
// quorum. Two nodes found a cluster, or more than half of the addresses given
// as routes if that is more. From three nodes on everything is stored on
// three; with two, on one of the two. While there is no quorum, methods that need the
// store return ErrNoStore, within seconds; what a node has on its own disk can
// be read all the same, and StoreUp and Store tell. After a node that led the
// store has died the others need 3 to 6 s to elect another, see elections.go.
//
// Two nodes are a cluster with limits. The quorum of two is two: when either is
// gone, the other can't store anything that needs agreement, and has the history
// only if it happens to be on its disk. The bus goes on, so running streams and
// new ones reach their clients; but nobody can take a job over, for nobody can
// tell a node that is gone from one that can't be reached. When both are there
// again everything is. One of two whose disk is lost may take the store along.
//
// A node that is replaced by one of another name would count for the quorum for
// ever. So a node that has been gone for ForgetAfter is taken out of the quorum
// if the loss of another would cost the quorum, while at least three are there;
// and its replicas are made anew elsewhere. Whoever replaces nodes one by one
// should wait for each step until Store says nothing in Detail, which takes
// some seconds more than ForgetAfter. A node that only restarts is expected back in a
// cluster of three, for however long. If one was forgotten and comes back, it
// uses the store of the others at once and counts again after five minutes.
//
// With Options.NatsURL nothing is embedded, and the store is that of the servers
// there: with three replicas if they are three or more, else one. Who counts
// there, and how long an election takes, is their operator's affair.
//
// # What is durable
//
// AppendLog and the methods that write records return when the server has
// written to the file, in a cluster when more than half of the replicas have,
// so the death of a process loses nothing, and with three replicas the loss of
// a machine doesn't either. The file is synced every Options.SyncInterval, 10 s
// by default, so the death of all machines that have it (power, kernel) may lose
// what was written in that time. A sync for each append costs milliseconds on
// the usual disk, and what it saves is the end of an answer whose provider
// connection has died with the machine anyway. The epoch rises even then, see
// Epoch.
//
// Reads are answered by any replica, which may lag behind the others for some
// moments: a read may then end earlier than the log does. What is told as
// missing (ErrNotFound, ErrGap, no record) has been confirmed by the leader.
package backbone
