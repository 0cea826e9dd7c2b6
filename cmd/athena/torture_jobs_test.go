package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/providertest"
)

// begin starts analyses, one after the other, until the attacks are over.
func (w *torture) begin(ctx context.Context) error {
	var cancels sync.WaitGroup
	defer cancels.Wait()
	for !w.isOver() && ctx.Err() == nil {
		w.mu.Lock()
		number := len(w.jobs)
		j := makeJob(w.seed, number, w.long)
		w.jobs = append(w.jobs, j)
		w.mu.Unlock()
		begun := time.Now()
		id, err := w.post(ctx, number)
		if err == nil && w.keyed && number%2 == 0 {
			id, err = w.postAgain(ctx, number, id, begun)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case id != "":
			s := &tortureStream{id: id, number: number, started: begun, world: w, said: make(map[uint64][]byte)}
			w.mu.Lock()
			w.streams = append(w.streams, s)
			w.counts.streams++
			w.mu.Unlock()
			if j.cancelAfter > 0 {
				cancels.Go(func() {
					rest(ctx, j.cancelAfter)
					if err := w.delete(ctx, s); err != nil {
						w.fail(err)
					}
				})
			}
		}
		rest(ctx, j.pause)
	}
	return nil
}

// reply is the upstream's side: what is asked names the job.
func (w *torture) reply(c *providertest.Call) providertest.Script {
	_, rest, _ := bytes.Cut(c.Body, []byte("job-"))
	digits, _, _ := bytes.Cut(rest, []byte("-"))
	number, err := strconv.Atoi(string(digits))
	j := w.jobOf(number)
	if err != nil || j == nil {
		w.fail(promiseBroken("the upstream is asked for no job: %.200q", c.Body))
		return providertest.Script{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[number] = append(w.asked[number], ask{nodeOfKey(c), c.Arrived})
	n := len(w.asked[number])
	w.counts.faults += min(1, max(0, len(j.faults)-n+1))
	return j.reply(n)
}

// post starts the analysis of this number; the id is empty if none can be
// started now.
func (w *torture) post(ctx context.Context, number int) (id string, err error) {
	tap := newTap(0)
	defer tap.transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.victim.address()+"/v1/analyses",
		strings.NewReader(fmt.Sprintf(`{"code":"job-%d-"}`, number)))
	if err != nil {
		return "", err
	}
	if w.keyed {
		req.Header.Set("Idempotency-Key", fmt.Sprintf("torture-%d", number))
	}
	res, err := tap.client.Do(req)
	if err != nil { // nobody is there
		w.victim.recovered(ctx)
		return "", nil
	}
	if res.StatusCode == http.StatusCreated || w.keyed && res.StatusCode == http.StatusOK {
		_ = res.Body.Close() // the header says it all
		return strings.TrimPrefix(res.Header.Get("Location"), "/v1/streams/"), nil
	}
	r, ok := errors.AsType[*refusedError](refused(res))
	if !ok || w.victim.mayRefuse(nil, r.problem()) {
		w.count(func(c *counts) { c.notStarted++ })
		return "", nil
	}
	return "", promiseBroken("an analysis is not started: %v", r)
}

// postAgain asks again for what got the id: until there is one, and then once
// more, which must lead to the same.
func (w *torture) postAgain(ctx context.Context, number int, id string, begun time.Time) (string, error) {
	for id == "" {
		if w.isOver() || ctx.Err() != nil {
			return "", nil //nolint:nilerr // who ended ctx knows why
		}
		w.victim.recovered(ctx)
		var err error
		if id, err = w.post(ctx, number); err != nil {
			return "", err
		}
	}
	again, err := w.post(ctx, number)
	if err == nil && again != "" && again != id && !w.victim.mayForget(begun) {
		err = promiseBroken("the key of job %d leads to stream %s, and then to %s", number, id, again)
	}
	return id, err
}

// delete cancels a stream, if somebody is there to do it.
func (w *torture) delete(ctx context.Context, s *tortureStream) error {
	tap := newTap(0)
	defer tap.transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, w.victim.address()+"/v1/streams/"+s.id, nil)
	if err != nil {
		return err
	}
	res, err := tap.client.Do(req)
	if err != nil {
		return nil // nobody is there
	}
	if res.StatusCode == http.StatusAccepted {
		_ = res.Body.Close() // its status says it all
		return nil
	}
	r, ok := errors.AsType[*refusedError](refused(res))
	if !ok || w.victim.mayRefuse(s, r.problem()) {
		return nil
	}
	return promiseBroken("stream %s: cancelling is answered with %v", s.id, r)
}

// problem is what the answer says, at least its status.
func (r *refusedError) problem() *protocol.Error {
	e := r.error
	e.Status = r.status
	return &e
}

// keyOfNode is the provider's key that tells the upstream which node calls.
func keyOfNode(node string) string { return "sk-test-node-" + node }

// nodeOfKey returns the node that made the call, "" if its key doesn't say.
func nodeOfKey(c *providertest.Call) string {
	key := strings.TrimPrefix(c.Header.Get("Authorization"), "Bearer ")
	if key == "" {
		key = c.Header.Get("X-Api-Key")
	}
	node, ok := strings.CutPrefix(key, keyOfNode(""))
	if !ok {
		return ""
	}
	return node
}
