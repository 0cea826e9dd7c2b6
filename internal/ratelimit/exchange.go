package ratelimit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// exchangeEvery is how often nodes tell each other how many places they have
	// given; so long a caller may have more than it should on nodes that it comes to
	// at the same time.
	exchangeEvery = time.Second
	// exchangeAge is how long what a node has told is good: one that was lost has no
	// places.
	exchangeAge = 5 * time.Second
)

// exchangeScript tells how many places one node has given, and returns what the
// others have told. A field's text is the time by Redis's clock, in milliseconds, a
// space, and JSON.
var exchangeScript = redis.NewScript(`
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local age = tonumber(ARGV[3])
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return {}
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d ', now) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], age)
local all, others = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local at, told = string.match(all[i+1], '^(%d+) (.*)$')
  if not at or now - tonumber(at) > age then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= ARGV[1] then
    others[#others+1] = told
  end
end
return others
`)

// Share makes the places of these kinds be counted for all nodes that share a
// Redis, from about a second after each was taken. It costs whoever takes one
// nothing: the nodes tell each other every second. While Redis is away each node
// counts its own. It ends with Redis's Close.
func (p *Places) Share(r *Redis, shared ...Kind) {
	node := rand.Text() // names may be the same where nodes have nothing else in common
	r.wg.Go(func() {
		tick := time.NewTicker(exchangeEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.exchange(r, node, shared)
			case <-r.ctx.Done():
				p.forget(r, node)
				return
			}
		}
	})
}

func (p *Places) exchange(r *Redis, node string, shared []Kind) {
	told, err := json.Marshal(p.snapshot(shared))
	if err != nil {
		panic(err) // names and numbers
	}
	texts, err := r.exchange(r.ctx, node, string(told))
	others := make(map[Key]int64)
	for _, text := range texts {
		var counts [kinds]map[string]int64
		if json.Unmarshal([]byte(text), &counts) != nil {
			continue // of a version that counts otherwise
		}
		for k, names := range counts {
			for name, n := range names {
				others[Key{Kind(k), name}] += max(n, 0)
			}
		}
	}
	if err != nil {
		others = nil
	}
	p.mu.Lock()
	p.others = others
	p.mu.Unlock()
}

// snapshot is how many places of these kinds are given here, by kind and name.
func (p *Places) snapshot(shared []Kind) (counts [kinds]map[string]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, n := range p.counts {
		if !slices.Contains(shared, k.Kind) {
			continue
		}
		if counts[k.Kind] == nil {
			counts[k.Kind] = make(map[string]int64)
		}
		counts[k.Kind][k.Name] = n
	}
	return counts
}

// forget takes back what this node has told.
func (p *Places) forget(r *Redis, node string) {
	_, _ = r.exchange(context.Background(), node, "") // else it is too old soon
}

// exchange is one round trip of exchangeScript.
func (r *Redis) exchange(ctx context.Context, node, told string) ([]string, error) {
	if r.away.Load() {
		return nil, ErrAway
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	texts, err := exchangeScript.Run(ctx, r.client, []string{r.opts.Prefix + "places"}, node, told, exchangeAge.Milliseconds()).StringSlice()
	if err != nil && ctx.Err() != context.Canceled {
		r.lose(err)
	}
	return texts, err
}
