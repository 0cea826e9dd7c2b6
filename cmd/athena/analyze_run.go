package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/protocol/client"
)

// An analysisRun is one analysis from its request to its end. One goroutine
// talks with the server; the one that calls run does everything else.
type analysisRun struct {
	// Set by the owner, then read-only.
	backend    *backend
	screen     *screen
	request    *protocol.Request
	began      time.Time
	interrupts <-chan os.Signal
	json       bool
	failOn     protocol.Severity // "" for none

	// Owned by run.
	id       string
	stage    string
	percent  *float64
	provider string
	found    int
	said     bool // something of the answer is above
	asked    bool // to cancel

	// Owned by the goroutine that talks with the server, until it has ended.
	followed *client.Run
}

// A message is what the goroutine that talks with the server has to tell. One
// field is set.
type message struct {
	id    string // the analysis was started
	event *protocol.Event
	json  []byte // event's
	lost  error  // the connection was, and is being replaced
}

// run runs the analysis and shows it. The error is what to tell the user, and
// the exit code.
func (a *analysisRun) run(ctx context.Context) error {
	ctx, leave := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer leave()

	messages := make(chan message)
	done := make(chan error, 1)
	tasks.Go(func() { done <- a.talk(ctx, messages) })

	cancelled := make(chan error, 1)
	cancel := func() {
		tasks.Go(func() {
			if err := a.backend.Cancel(ctx, a.id); err != nil && ctx.Err() == nil {
				cancelled <- err
			}
		})
	}
	var unconfirmed <-chan time.Time // set when cancelling was asked for
	ticker := time.NewTicker(statusInterval)
	defer ticker.Stop()
	for {
		select {
		case m := <-messages:
			if m.id != "" {
				if a.id = m.id; a.asked {
					cancel()
				}
				continue
			}
			if err := a.show(&m); err != nil {
				return a.abandon(ctx, err)
			}
		case err := <-done:
			return a.finish(err)
		case <-ticker.C:
			if !a.json {
				a.screen.show(a.status())
			}
		case <-a.interrupts:
			if a.asked {
				return &exitError{exitInterrupted, a.screen.end()}
			}
			a.asked, unconfirmed = true, time.After(cancelTimeout)
			a.screen.note("cancelling the analysis; interrupt again to leave at once")
			if a.id != "" {
				cancel()
			}
		case err := <-cancelled:
			return errors.Join(a.screen.end(), fmt.Errorf("the analysis could not be cancelled: %w", a.from(err)))
		case <-unconfirmed:
			return errors.Join(a.screen.end(), fmt.Errorf("the analysis was asked to end, and did not within %s", cancelTimeout))
		case <-ctx.Done():
			return errors.Join(a.screen.end(), context.Cause(ctx))
		}
	}
}

// talk starts the analysis and follows it.
func (a *analysisRun) talk(ctx context.Context, messages chan<- message) error {
	tell := func(m message) error {
		select {
		case messages <- m:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	stream, err := a.backend.Analyze(ctx, a.request)
	if err != nil {
		err = a.from(err)
		if errors.Is(err, protocol.ErrValidation) || errors.Is(err, protocol.ErrAuthentication) {
			return &exitError{exitUsage, err}
		}
		return err
	}
	if err := tell(message{id: stream.ID()}); err != nil {
		return err
	}
	a.followed = stream
	told := false
	stream.Lost = func(err error) {
		if !told {
			_ = tell(message{lost: err}) // fails only where everything ends
		}
		told = true
	}
	for event, err := range stream.Events(ctx) {
		if err != nil {
			return a.from(err)
		}
		if err := tell(message{event: &event.Event, json: event.JSON}); err != nil {
			return a.from(err)
		}
	}
	return nil
}

// from says which server an error comes from.
func (a *analysisRun) from(err error) error {
	if a.backend.where == "" {
		return err
	}
	return fmt.Errorf("%s: %w", a.backend.where, err)
}

// abandon ends an analysis that can't be shown.
func (a *analysisRun) abandon(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(ctx, nodeStopTimeout)
	defer cancel()
	_ = a.backend.CancelOnce(ctx, a.id) // nobody watches it: it would end by itself
	_ = a.screen.end()
	if errors.Is(err, syscall.EPIPE) {
		return &exitError{exitFailed, nil} // the reader had enough
	}
	return err
}

// show shows an event or what became of the connection.
func (a *analysisRun) show(m *message) error {
	if m.lost != nil {
		a.screen.note(fmt.Sprintf("lost the connection (%v); resuming", m.lost))
		return nil //nolint:nilerr // lost is what is shown
	}
	data := protocol.DataFor(m.event.Type)
	if data == nil || m.event.Decode(data) != nil { // newer than this program
		data = nil
	}
	a.watch(data)
	if a.json {
		return a.screen.json(m.json)
	}
	switch d := data.(type) {
	case *protocol.Chunk:
		if d.Kind == protocol.KindText {
			return a.screen.text(d.Text)
		}
	case *protocol.Finding:
		return a.screen.finding(d)
	case *protocol.Failover:
		return a.failover(d)
	case *protocol.Retrying:
		a.screen.note(fmt.Sprintf("%s failed (%s); asking it again", d.Provider, reasonOf(d.Error)))
	case *protocol.Completed:
		if d.Stale {
			a.screen.note("no provider could be reached; this is an earlier answer")
		}
		if d.Degraded {
			a.screen.note(fmt.Sprintf("no provider answered; this is what %s found offline", d.Provider))
		}
	}
	return nil
}

// failover says who answers from now on: beside the answer while there is none
// of it, and otherwise where it breaks off.
func (a *analysisRun) failover(d *protocol.Failover) error {
	from := fmt.Sprintf("%s failed (%s)", oneLine(d.From), oneLine(d.Reason))
	if d.Reason == protocol.ReasonHedged {
		from = oneLine(d.From) + " is slow"
	}
	switch {
	case d.Discard:
		return a.screen.line("--- %s; %s starts again: disregard what is above ---", from, oneLine(d.To))
	case a.said:
		return a.screen.line("--- %s; %s goes on where it stopped ---", from, oneLine(d.To))
	}
	a.screen.note(fmt.Sprintf("%s; %s answers", from, d.To))
	return nil
}

func reasonOf(e *protocol.Error) protocol.Code {
	if e == nil {
		return protocol.CodeInternal
	}
	return e.Code
}

// watch keeps what the status says.
func (a *analysisRun) watch(data any) {
	a.percent = nil
	switch d := data.(type) {
	case *protocol.Started:
		a.stage, a.provider = "waiting for the answer", d.Provider
		if d.Model != "" && d.Model != d.Provider {
			a.provider += " " + d.Model
		}
	case *protocol.Queued:
		a.stage = "waiting for a rate limit"
		if d.Position > 0 {
			a.stage = fmt.Sprintf("place %d in the queue", d.Position)
		}
	case *protocol.Retrying:
		a.stage = "trying " + d.Provider + " again"
	case *protocol.Failover:
		a.stage, a.provider = "asking "+d.To, d.To
		if d.Discard {
			a.found, a.said = 0, false
		}
	case *protocol.Chunk:
		a.said = true
		a.stage = "answering"
		if d.Kind == protocol.KindReasoning {
			a.stage = "reasoning"
		}
	case *protocol.Finding:
		a.said = true
		a.found++
	case *protocol.Progress:
		a.stage, a.percent = d.Stage, d.Percent
	}
}

// status is the line of progress.
func (a *analysisRun) status() string {
	parts := []string{a.screen.file}
	add := func(s string) {
		if s != "" {
			parts = append(parts, s)
		}
	}
	add(a.provider)
	switch {
	case a.asked:
		add("cancelling")
	case a.id == "":
		add("starting")
	default:
		add(a.stage)
	}
	if a.percent != nil {
		add(fmt.Sprintf("%.0f %%", *a.percent))
	}
	if a.found > 0 {
		add(plural(a.found, "finding"))
	}
	add(time.Since(a.began).Truncate(time.Second).String())
	return strings.Join(parts, " · ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// finish shows how the analysis ended, and decides what that means.
func (a *analysisRun) finish(err error) error {
	if endErr := a.screen.end(); endErr != nil && err == nil {
		err = endErr
	}
	if err != nil {
		return err
	}
	t := a.followed.Transcript()
	switch end := t.Terminal(); end.Type {
	case protocol.TypeFailed:
		var d protocol.Failed
		if end.Decode(&d) != nil || d.Error == nil {
			return errors.New("the analysis failed")
		}
		return fmt.Errorf("the analysis failed: %w", d.Error)
	case protocol.TypeCancelled:
		var d protocol.Cancelled
		if end.Decode(&d) == nil && d.By != "" && !(a.asked && d.By == protocol.CancelClient) {
			return fmt.Errorf("the analysis was cancelled (%s)", d.By)
		}
		return errors.New("the analysis was cancelled")
	}
	if a.screen.live && !a.json {
		if err := a.screen.line("%s", a.screen.styled(styleDim, a.summary())); err != nil {
			return err
		}
	}
	if a.failOn != "" {
		for _, f := range t.Findings() {
			if atLeast(f.Severity, a.failOn) {
				return &exitError{exitFindings, nil}
			}
		}
	}
	return nil
}

// atLeast reports whether s is as grave as limit.
func atLeast(s, limit protocol.Severity) bool {
	for _, graver := range severities {
		if graver == s {
			return true
		}
		if graver == limit {
			return false
		}
	}
	return false
}

// about marks numbers that nobody has told.
func about(estimated bool) string {
	if estimated {
		return "about "
	}
	return ""
}

// summary is the last line of a completed analysis.
func (a *analysisRun) summary() string {
	t := a.followed.Transcript()
	counts := make(map[protocol.Severity]int)
	for _, f := range t.Findings() {
		counts[f.Severity]++
	}
	var by []string
	for _, s := range severities {
		if n := counts[s]; n > 0 {
			by = append(by, fmt.Sprintf("%d %s", n, s))
		}
	}
	found := plural(len(t.Findings()), "finding")
	if len(by) > 0 {
		found += ": " + strings.Join(by, ", ")
	}
	parts := []string{found}
	var d protocol.Completed
	if err := t.Terminal().Decode(&d); err == nil {
		who := d.Provider
		if d.Model != "" && d.Model != d.Provider {
			who += " " + d.Model
		}
		parts = append(parts, who)
		if d.Cached {
			parts = append(parts, "cached")
		}
		if d.Stale {
			parts = append(parts, "stale")
		}
		if d.Degraded {
			parts = append(parts, "degraded")
		}
		if d.FinishReason != "" && d.FinishReason != "stop" {
			parts = append(parts, "ended by "+d.FinishReason)
		}
	}
	if u := t.Usage(); u != nil && u.InputTokens+u.OutputTokens > 0 {
		parts = append(parts, fmt.Sprintf("%s%d tokens in, %d out", about(u.Estimated), u.InputTokens, u.OutputTokens))
		if u.CostUSD != nil {
			parts = append(parts, fmt.Sprintf("%s$%.4f", about(u.Estimated), *u.CostUSD))
		}
	}
	parts = append(parts, time.Since(a.began).Round(10*time.Millisecond).String())
	if a.backend.where != "" {
		parts = append(parts, a.backend.where)
	}
	return oneLine(strings.Join(parts, " · "))
}
