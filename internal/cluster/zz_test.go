package cluster_test
import ("testing";"time";"context";"github.com/athena-hub/athena/internal/backbone")
func TestZZ(t *testing.T) {
	b, err := backbone.Open(t.Context(), backbone.Options{Node: "a", NatsURL: natsServer(t)})
	if err != nil { t.Fatal(err) }
	defer b.Close()
	r, err := b.WriteLease(t.Context(), []byte("{}"), 0)
	t.Log(r, err)
	t.Log(b.RemoveLease(t.Context(), "a", r))
	for range 3 {
	at := time.Now()
	ctx, c := context.WithTimeout(t.Context(), 8*time.Second)
	_, err = b.WriteLease(ctx, []byte("{}"), r)
	c()
	t.Log(err, time.Since(at))
	at = time.Now()
	t.Log(b.Leases(t.Context()))
	t.Log(time.Since(at))
	}
}
