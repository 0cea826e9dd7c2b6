package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Peer is one node's server, as far as the store's quorum goes.
type Peer struct {
	Name   string
	Online bool
	Leader bool // it leads the quorum
	// Seen is how long ago it was online last, as far as this node knows: 0
	// while it is.
	Seen time.Duration
}

// A StoreState is what this node knows of the store.
type StoreState struct {
	// Clustered says that the store is the embedded servers' of several nodes.
	// Otherwise Peers and Size are empty.
	Clustered bool
	// Peers are those that count for the quorum, by name.
	Peers []Peer
	// Quorum says that enough of the peers are there to agree on anything,
	// and, where the store isn't clustered, that it takes writes.
	Quorum bool
	// Size is the number of peers that count for the quorum, there or not. It
	// is larger than the number of Peers while a new cluster comes up.
	Size int
	// Replicas is how many the store's streams should have, ReplicasCurrent how
	// many are there and up to date of the one that has fewest. Both are 0
	// while nobody can tell.
	Replicas        int
	ReplicasCurrent int
	// Detail says what is degraded, "" where nothing is.
	Detail string
}

// storeTimeout bounds what Store asks.
const storeTimeout = time.Second

// Store returns what this node knows of the store. It asks the leaders of the
// streams, so it may take up to a second where one does not answer.
func (b *Backbone) Store(ctx context.Context) StoreState {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	state := StoreState{Quorum: b.StoreUp()}
	if q := b.quorum(); q != nil {
		state.Clustered, state.Peers, state.Size = true, q.peers, q.size
		state.Quorum = q.leader != "" && q.online >= q.need
	}
	s := b.opened.Load()
	if s != nil {
		state.Replicas, state.ReplicasCurrent = b.countReplicas(ctx, s)
	}
	state.Detail = b.degraded(s, &state)
	return state
}

// degraded says what is not as it should be.
func (b *Backbone) degraded(s *store, state *StoreState) string {
	var parts []string
	if state.Clustered && !state.Quorum {
		online := 0
		for _, p := range state.Peers {
			if p.Online {
				online++
			}
		}
		parts = append(parts, fmt.Sprintf("%d of the %d nodes that count are there, and %d are needed to store anything",
			online, state.Size, state.Size/2+1))
	}
	switch {
	case s == nil:
		parts = append(parts, "the store is not open yet")
	case state.ReplicasCurrent > 0 && state.ReplicasCurrent < state.Replicas:
		parts = append(parts, fmt.Sprintf("%d of %d replicas are there and up to date", state.ReplicasCurrent, state.Replicas))
	case !b.StoreUp():
		parts = append(parts, "the store takes no writes")
	}
	return strings.Join(parts, "; ")
}

// countReplicas returns how many replicas the parts of the store should have,
// and how many the poorest of them has.
func (b *Backbone) countReplicas(ctx context.Context, s *store) (want, current int) {
	current = math.MaxInt
	for _, p := range s.parts() {
		info, err := b.info(ctx, p)
		if err != nil {
			return want, 0
		}
		w, c := b.replicas(info)
		want, current = max(want, w), min(current, c)
	}
	return want, current
}

// replicas returns how many replicas a stream should have, and how many there
// are.
func (b *Backbone) replicas(info *streamInfo) (want, current int) {
	want, current = max(info.Config.Replicas, 1), 1
	if info.Cluster == nil {
		return want, current
	}
	if info.Cluster.Leader == "" {
		current = 0
	}
	for _, r := range info.Cluster.Replicas {
		if r.Current && b.present(r) {
			current++
		}
	}
	if info.Cluster.Desired != nil {
		current = min(current, want-1)
	}
	return want, min(current, want)
}

// present reports whether the server of a replica is there. NATS itself counts
// a server that has died without a word as there for some minutes, so where
// this node has routes, they decide, and elsewhere when it was heard of last.
func (b *Backbone) present(r *jetstream.PeerInfo) bool {
	if r.Offline {
		return false
	}
	if b.server == nil {
		return r.Active < silent
	}
	return b.server.reaches(r.Name)
}

// silent is how long a replica, whose leader hears of it each second, may be
// silent before it counts as gone.
const silent = 5 * time.Second

// reaches reports whether this server has a route to the one of a name, or is
// it.
func (e *embeddedServer) reaches(name string) bool {
	return slices.Contains(e.reached(), name)
}

// reached returns the names of the servers to which this one has a route, and
// its own.
func (e *embeddedServer) reached() []string {
	names := []string{e.Name()}
	routes, err := e.Routez(nil)
	if err != nil {
		return names // never, without options
	}
	for _, r := range routes.Routes {
		if r.RemoteName != "" && !slices.Contains(names, r.RemoteName) {
			names = append(names, r.RemoteName)
		}
	}
	return names
}

// A quorum is what the servers of a cluster agree by.
type quorum struct {
	peers  []Peer // by name
	ids    map[string]string
	leader string
	size   int // peers that count
	need   int // of them to agree
	online int
}

// quorum returns how this node's server sees the quorum, nil where it is not
// one of a cluster.
func (b *Backbone) quorum() *quorum {
	if b.server == nil || b.opts.Cluster == nil {
		return nil
	}
	q := &quorum{ids: make(map[string]string)}
	info, err := b.server.Jsz(&server.JSzOptions{})
	if err != nil || info.Meta == nil {
		return q
	}
	q.leader, q.size, q.need = info.Meta.Leader, info.Meta.Size, info.Meta.QuorumNeeded
	b.sightings.look(b.server.reached())
	q.ids[b.server.Name()] = ""
	for _, r := range info.Meta.Replicas {
		name := r.Name
		if strings.Contains(name, " ") {
			// A node that this one has never met: only its number is known.
			name = r.Peer
		}
		q.ids[name] = r.Peer
	}
	for name := range q.ids {
		seen := b.sightings.since(name)
		if seen == 0 {
			q.online++
		}
		q.peers = append(q.peers, Peer{Name: name, Online: seen == 0, Leader: name == q.leader, Seen: seen})
	}
	slices.SortFunc(q.peers, func(x, y Peer) int { return strings.Compare(x.Name, y.Name) })
	return q
}

// ForgetPeer takes a node that has gone for good out of the store's quorum, so
// that the others need not outnumber it any more. Its replicas are made anew
// on others where there are any. ErrInvalid if there is no such node, or it is
// online: a node that is forgotten and comes back has no part of the store for
// five minutes. ErrNoStore without a quorum, which is what decides it.
func (b *Backbone) ForgetPeer(ctx context.Context, name string) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	if err := b.forgetPeer(ctx, name); err != nil {
		return fmt.Errorf("take node %.64s out of the quorum: %w", name, err)
	}
	return nil
}

func (b *Backbone) forgetPeer(ctx context.Context, name string) error {
	if b.closing.Load() {
		return ErrClosed
	}
	q := b.quorum()
	if q == nil {
		return fmt.Errorf("%w: this node is not one of a cluster with embedded servers", ErrInvalid)
	}
	i := slices.IndexFunc(q.peers, func(p Peer) bool { return p.Name == name })
	switch {
	case i < 0:
		return fmt.Errorf("%w: there is no such node", ErrInvalid)
	case q.peers[i].Online:
		return fmt.Errorf("%w: it is online", ErrInvalid)
	case q.leader == "" || q.online < q.need:
		// A leader that has lost its quorum, and does not know it yet, would
		// take the request, and do it to a node that has come back since.
		return fmt.Errorf("%w: there is no quorum, which must decide it", ErrNoStore)
	}
	conn, err := nats.Connect("", append(b.server.optionsOf(systemUser), nats.Name("athena servers"), nats.Timeout(connectTimeout))...)
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer conn.Close()
	return b.askServers(ctx, conn, "$JS.API.SERVER.REMOVE", map[string]string{"peer_id": q.ids[name]})
}

// askServers sends a request to JetStream that says no more than whether it
// was done.
func (b *Backbone) askServers(ctx context.Context, conn *nats.Conn, subject string, question map[string]string) error {
	data, err := json.Marshal(question)
	if err != nil {
		return err
	}
	m, err := conn.RequestWithContext(ctx, subject, data)
	if err != nil {
		if noStore(err) || errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", ErrNoStore, err)
		}
		return known(err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Success bool                `json:"success"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return fmt.Errorf("the server's answer: %w", err)
	}
	if answer.Error != nil {
		return answer.Error
	}
	if !answer.Success {
		return errors.New("the server has not done it")
	}
	return nil
}
