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
//   - history from the owner (athena.history.<id>): request and reply, with an
//     answer at once where there is no owner;
//   - the records of running jobs, and this node's epoch.
//
// # What is durable
//
// AppendLog and MarkRunning return when the server has written to the file, so
// the death of the process loses nothing. The file is synced every
// Options.SyncInterval, 10 s by default, so the death of the machine (power,
// kernel) may lose what was appended in that time. A sync for each append costs
// milliseconds on the usual disk, and what it saves is the end of an answer
// whose provider connection has died with the machine anyway. The epoch rises
// even then, see Epoch.
package backbone
