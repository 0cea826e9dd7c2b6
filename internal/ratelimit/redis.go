package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// ErrAway is the family of the errors that say that Redis was not asked, or did
// not answer.
var ErrAway = errors.New("the rate limits in Redis can't be reached")

// RedisOptions say where the buckets of all nodes are.
type RedisOptions struct {
	// URL is redis://[user:password@]host:port[/db], or rediss:// for TLS.
	URL string
	// Password is used where it isn't "", whatever the URL says.
	Password string
	// Timeout bounds each round trip. Default 100 ms.
	Timeout time.Duration
	// Probe is how often a Redis that is away is asked whether it is back. Default
	// 1 s.
	Probe time.Duration
	// Prefix begins each key. Default "athena:limit:".
	Prefix string
	// Changed is told when Redis goes away, with the error, and when it is back,
	// with nil. It is called from one goroutine at a time; nil for nobody.
	Changed func(error)
}

// Redis holds buckets for all nodes. Its methods may be called concurrently.
type Redis struct {
	// Set by OpenRedis, then read-only.
	opts   RedisOptions
	client *redis.Client
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // what probes, and what exchanges places

	away   atomic.Bool   // nobody asks it
	failed atomic.Uint64 // round trips

	mu sync.Mutex // orders Changed
}

// OpenRedis returns a Redis, which need not be there yet. An error tells that the
// URL is wrong. Close ends its goroutines.
func OpenRedis(o RedisOptions) (*Redis, error) {
	o.Timeout = cmp.Or(o.Timeout, 100*time.Millisecond)
	o.Probe = cmp.Or(o.Probe, time.Second)
	o.Prefix = cmp.Or(o.Prefix, "athena:limit:")
	c, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, errors.New("the URL of Redis is not redis://[USER:PASSWORD@]HOST:PORT[/NUMBER], or rediss:// for TLS") // err repeats it, with its password
	}
	c.Password = cmp.Or(o.Password, c.Password)
	// The caller's deadline holds for all of it. A second try would double what a
	// request waits, and take from a bucket twice.
	c.ContextTimeoutEnabled, c.MaxRetries, c.DialerRetries = true, -1, 1
	c.DialTimeout, c.ReadTimeout, c.WriteTimeout, c.PoolTimeout = o.Timeout, o.Timeout, o.Timeout, o.Timeout
	c.DisableIdentity = true // one command less for each connection
	c.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	quiet()
	r := &Redis{opts: o, client: redis.NewClient(c)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// quiet keeps the library from writing to stderr what Changed tells.
var quiet = sync.OnceFunc(func() { redis.SetLogger(nobody{}) })

type nobody struct{}

func (nobody) Printf(context.Context, string, ...any) {}

// Up reports whether Redis answered when it was last asked.
func (r *Redis) Up() bool { return !r.away.Load() }

// Failures counts the round trips that failed.
func (r *Redis) Failures() uint64 { return r.failed.Load() }

// Close ends what is under way.
func (r *Redis) Close() error {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
	r.wg.Wait()
	return r.client.Close()
}

// takeScript is the generic cell rate algorithm on several keys: each holds the
// time, in microseconds by Redis's clock, at which its bucket is full again.
//
// Its arguments are, for each key, a limit a minute, a demand, and 1 if that has been
// spent already. It answers with
// whether the demands were met, and for each key with the tokens left, the
// microseconds to wait, and those until the bucket is full.
var takeScript = redis.NewScript(`
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local minute, ok = 60000000, 1
local full, wait = {}, {}
for i = 1, #KEYS do
  local limit, n = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1])
  full[i] = math.max(tonumber(redis.call('GET', KEYS[i]) or now), now)
  wait[i] = full[i] + math.max(math.min(n, limit), 0) * minute / limit - now - minute
  if n < 0 or ARGV[3*i] == '1' then wait[i] = 0 end
  if wait[i] > 0.5 then ok = 0 else wait[i] = 0 end
end
local answer = {ok}
for i = 1, #KEYS do
  local limit, n = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1])
  if ok == 1 and n ~= 0 then
    full[i] = math.min(full[i] + n * minute / limit, now + 61 * minute)
    if full[i] > now then
      redis.call('SET', KEYS[i], string.format('%.17g', full[i]), 'PX', math.ceil((full[i] - now) / 1000))
    else
      redis.call('DEL', KEYS[i])
    end
  end
  local used = math.max(full[i] - now, 0)
  answer[#answer+1] = math.max(math.floor((minute - used) * limit / minute + 0.001), 0)
  answer[#answer+1] = math.ceil(wait[i])
  answer[#answer+1] = math.ceil(used)
end
return answer
`)

// Take is Buckets' Take for all nodes, in one round trip. An error is of the
// family ErrAway, and nothing is known then of what was taken.
func (r *Redis) Take(ctx context.Context, demands []Demand, levels []Level) (ok bool, err error) {
	if r.away.Load() {
		return false, ErrAway
	}
	keys := make([]string, len(demands))
	args := make([]any, 0, 3*len(demands))
	for i, d := range demands {
		keys[i] = r.opts.Prefix + d.Kind.String() + ":" + d.Name
		args = append(args, d.PerMinute, d.N, d.Spent) // a bool is 1 or 0
	}
	// A client that leaves says nothing about Redis.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.Timeout)
	defer cancel()
	answer, err := takeScript.Run(ctx, r.client, keys, args...).Int64Slice()
	if err == nil && len(answer) != 1+3*len(demands) {
		err = errors.New("an answer of " + strconv.Itoa(len(answer)) + " numbers")
	}
	if err != nil {
		r.lose(err)
		return false, fmt.Errorf("%w: %w", ErrAway, err)
	}
	for i := range levels {
		a := answer[1+3*i:]
		levels[i] = Level{Left: a[0], Wait: time.Duration(a[1]) * time.Microsecond, Full: time.Duration(a[2]) * time.Microsecond}
	}
	return answer[0] == 1, nil
}

// lose makes everybody stop asking, and begins to probe.
func (r *Redis) lose(err error) {
	r.failed.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil || !r.away.CompareAndSwap(false, true) {
		return
	}
	if r.opts.Changed != nil {
		r.opts.Changed(err)
	}
	r.wg.Go(r.probe)
}

// probe asks until Redis is back.
func (r *Redis) probe() {
	tick := time.NewTicker(r.opts.Probe)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(r.ctx, r.opts.Timeout)
		err := r.client.Ping(ctx).Err()
		cancel()
		if err != nil {
			continue
		}
		r.mu.Lock()
		if r.opts.Changed != nil {
			r.opts.Changed(nil)
		}
		r.away.Store(false)
		r.mu.Unlock()
		return
	}
}
