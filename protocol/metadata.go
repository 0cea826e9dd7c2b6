package protocol

import (
	"encoding/json"
	"time"
)

// A State says where a stream is in its life.
type State string

// The states: running until the terminal event, then named after it.
const (
	StateRunning   State = "running"
	StateCompleted State = "completed"
	StateFailed    State = "failed"
	StateCancelled State = "cancelled"
)

// Metadata is what a stream's events say about it in short: the answer of
// GET /v1/streams/{id}.
type Metadata struct {
	ID       string `json:"id"`
	State    State  `json:"state"`
	Provider string `json:"provider,omitempty"`
	Model    string `json:"model,omitempty"`
	Analysis string `json:"analysis,omitempty"`
	Language string `json:"language,omitempty"`
	Attempt  int    `json:"attempt,omitempty"`
	// Head is the newest seq.
	Head uint64 `json:"head"`
	// Viewers is how many clients watch on the node that answers.
	Viewers int `json:"viewers"`
	// Created is the time of the first event, Ended of the terminal one.
	Created *time.Time `json:"created,omitempty"`
	Ended   *time.Time `json:"ended,omitempty"`
	// FinishReason, Cached and Degraded are set once the stream is completed.
	FinishReason string       `json:"finish_reason,omitempty"`
	Cached       bool         `json:"cached,omitempty"`
	Degraded     bool         `json:"degraded,omitempty"`
	CancelledBy  CancelReason `json:"cancelled_by,omitempty"`
	Usage        *Usage       `json:"usage,omitempty"`
	Error        *Error       `json:"error,omitempty"`
}

// Apply takes the next event of the stream. Chunks and findings change
// nothing but Head, and data that can't be decoded changes nothing at all.
func (m *Metadata) Apply(e *Encoded) {
	m.Head = e.Seq
	if e.Type == TypeChunk || e.Type == TypeFinding {
		return
	}
	ev, err := e.Event()
	if err != nil {
		return
	}
	if m.Created == nil {
		m.Created = &ev.Time
	}
	data := DataFor(e.Type)
	if data == nil || json.Unmarshal(ev.Data, data) != nil {
		return
	}
	switch d := data.(type) {
	case *Started:
		m.Provider, m.Model, m.Analysis, m.Language, m.Attempt = d.Provider, d.Model, d.Analysis, d.Language, d.Attempt
	case *Usage:
		m.Usage = d
	case *Completed:
		m.State, m.Ended = StateCompleted, &ev.Time
		m.Provider, m.Model = d.Provider, d.Model
		m.FinishReason, m.Cached, m.Degraded = d.FinishReason, d.Cached, d.Degraded
		if d.Usage != nil {
			m.Usage = d.Usage
		}
	case *Failed:
		m.State, m.Ended, m.Error = StateFailed, &ev.Time, d.Error
	case *Cancelled:
		m.State, m.Ended, m.CancelledBy = StateCancelled, &ev.Time, d.By
	}
}
