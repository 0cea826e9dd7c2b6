// Package accounting keeps the books of what calls to providers use: how many
// requests and tokens each provider and each tenant may still spend in this
// minute, and how much was spent, by provider, model and tenant.
//
// A call takes its place first (Ledger.Reserve), with an estimate of its
// tokens, and tells at its end what it really used (Reservation.Settle). What
// it promises:
//
//   - Calls together never take more than the limits allow, however many ask
//     at once: a reservation is all or nothing over provider and tenant.
//   - A wait that Reserve returns is exact: it's too short by nothing, and
//     reserving after it succeeds unless somebody else came first.
//   - Totals are the sums of what Settle returned, call by call.
//   - Memory is bounded, whatever names tenants and models have.
//
// The books are this node's and in memory: nodes of a cluster each keep their
// own, and a restart begins with full buckets and empty totals. Queueing,
// retries and the choice of a provider belong to the callers.
package accounting
