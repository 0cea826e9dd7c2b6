package languageserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/athena-hub/athena/protocol"
)

const (
	// cancelTimeout bounds the request that ends an analysis at the server.
	cancelTimeout = 10 * time.Second
	// orphanTimeout is how long an analysis goes on whose editor has gone.
	orphanTimeout = 30 * time.Second
)

// schedule has d analysed after a while, unless it changes before. It needs
// s.mu.
func (s *server) schedule(d *document, after time.Duration) {
	d.halt()
	if sha256.Sum256([]byte(d.text)) == d.analysed {
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	d.stop, d.running = cancel, after == 0
	job := job{doc: d, version: d.version, text: d.text}
	s.tasks.Go(func() {
		defer cancel()
		if after > 0 {
			timer := time.NewTimer(after)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		}
		s.mu.Lock()
		current := ctx.Err() == nil
		if current {
			d.running = true
		}
		s.mu.Unlock()
		if current {
			s.tell(s.analyse(ctx, &job))
		}
		s.mu.Lock()
		if ctx.Err() == nil { // otherwise the next one has begun
			d.running = false
		}
		s.mu.Unlock()
	})
}

// A job is the analysis of a text, or of some lines of it.
type job struct {
	doc     *document
	version int
	text    string
	// from and to are the lines, to exclusive; both 0 for all of it.
	from, to int
	others   []protocol.Finding // those of the other lines
	// unopened says that the editor doesn't have the file open.
	unopened bool
}

// tell tells the editor that an analysis failed: the first in a row.
func (s *server) tell(err error) {
	s.mu.Lock()
	first := err != nil && !s.complains && s.ctx.Err() == nil && !errors.Is(err, context.Canceled)
	s.complains = err != nil && (s.complains || first)
	s.mu.Unlock()
	if first {
		s.show(messageWarning, "Athena: %v", err)
	}
}

// request is what is asked for code of a document.
func (s *server) request(d *document, code string, kind protocol.AnalysisKind) *protocol.Request {
	s.mu.Lock()
	o, name, language := s.options, filename(s.root, d.uri), d.language
	s.mu.Unlock()
	r := &protocol.Request{Code: code, Analysis: cmp.Or(kind, o.Analysis, protocol.AnalysisReview), Filename: name, Provider: o.Provider, Model: o.Model,
		OrphanTimeout: protocol.Duration(orphanTimeout)}
	if path.Ext(name) == "" {
		r.Language = language
	}
	return r
}

// analyse analyses, and publishes what is found while it is found.
func (s *server) analyse(ctx context.Context, j *job) error {
	text, whole := lines(j.text), j.to == 0
	if !whole {
		text = text[j.from:j.to]
	}
	code := strings.Join(text, "\n")
	if strings.TrimSpace(code) == "" {
		s.found(ctx, j, nil)
		return nil
	}
	report := s.begin(ctx, "Athena: "+path.Base(filePath(j.doc.uri)))
	published := false
	transcript, err := s.follow(ctx, report, s.request(j.doc, code, ""), func(t *protocol.Transcript) {
		published = true
		s.found(ctx, j, t.Findings())
	})
	if err != nil {
		report.end("not analysed")
		return err
	}
	findings := transcript.Findings()
	if !published { // those of an earlier text are over
		s.found(ctx, j, findings)
	}
	report.end(counted(len(findings)))
	if whole {
		s.mu.Lock()
		j.doc.analysed = sha256.Sum256([]byte(j.text))
		s.mu.Unlock()
	}
	return nil
}

func counted(findings int) string {
	if findings == 1 {
		return "1 finding"
	}
	return fmt.Sprintf("%d findings", findings)
}

// follow runs an analysis to its end, which is an error if it is not complete,
// and calls changed when its findings have changed.
func (s *server) follow(ctx context.Context, report *report, req *protocol.Request, changed func(*protocol.Transcript)) (*protocol.Transcript, error) {
	s.mu.Lock()
	c := s.options.Client
	s.mu.Unlock()
	// Not ctx: an analysis whose id nobody has learnt could not be ended.
	run, err := c.Analyze(s.ctx, req)
	if err != nil {
		return nil, err
	}
	t := run.Transcript()
	for event, err := range run.Events(ctx) {
		if err != nil {
			if ctx.Err() != nil { // nobody wants the rest
				end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
				_ = c.CancelOnce(end, run.ID())
				cancel()
			}
			return nil, err
		}
		switch event.Type {
		case protocol.TypeFinding:
			changed(t)
			report.say(progressValue{Kind: "report", Message: counted(len(t.Findings()))})
		case protocol.TypeFailover:
			var d protocol.Failover
			if event.Decode(&d) == nil && d.Discard {
				changed(t)
			}
		case protocol.TypeStarted:
			report.say(progressValue{Kind: "report", Message: "asking " + t.Started().Provider})
		case protocol.TypeProgress:
			var d protocol.Progress
			if event.Decode(&d) == nil {
				v := progressValue{Kind: "report", Message: d.Stage}
				if d.Percent != nil {
					v.Percentage = new(int(*d.Percent))
				}
				report.say(v)
			}
		}
	}
	switch end := t.Terminal(); end.Type {
	case protocol.TypeCompleted:
		return t, nil
	case protocol.TypeFailed:
		var d protocol.Failed
		if end.Decode(&d) == nil && d.Error != nil {
			return nil, fmt.Errorf("the analysis failed: %w", d.Error)
		}
		return nil, errors.New("the analysis failed")
	default:
		return nil, errors.New("the analysis was cancelled")
	}
}

// found publishes the findings of a job, unless the text has changed.
func (s *server) found(ctx context.Context, j *job, findings []protocol.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := j.doc
	if ctx.Err() != nil || d.version != j.version || s.documents[d.uri] != d && (!j.unopened || s.documents[d.uri] != nil) {
		return
	}
	all := slices.Clone(j.others)
	for _, f := range findings {
		if j.to > 0 && f.Range.Start.Line > 0 {
			f.Range.Start.Line += j.from
			f.Range.End.Line += j.from
		}
		all = append(all, f)
	}
	d.findings, d.foundIn = all, j.version
	p := publishParams{URI: d.uri, Diagnostics: make([]diagnostic, len(all))}
	if !j.unopened {
		p.Version = &j.version
	}
	text := lines(j.text)
	for i := range all {
		p.Diagnostics[i] = diagnosticOf(text, &all[i])
	}
	s.publish(p) // with s.mu, so that what is published last is newest
}
