package gateway

import (
	"context"
	"net/http"
)

// A CacheGeneration knows which cached answers are good.
type CacheGeneration interface {
	// Name is the generation that is good now; "" where that isn't known.
	Name() string
	// Raise makes all answers that are cached now invalid, on all nodes and at
	// all clients.
	Raise(ctx context.Context) (name string, err error)
}

// A CacheAnswer is the answer of DELETE /v1/cache.
type CacheAnswer struct {
	// Cache is the generation from now on.
	Cache string `json:"cache"`
}

// clearCache answers DELETE /v1/cache.
func (g *Gateway) clearCache(w http.ResponseWriter, r *http.Request) {
	name, err := g.opts.Cache.Raise(r.Context())
	if err != nil {
		g.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, CacheAnswer{name})
}
