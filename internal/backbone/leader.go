package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// leaderTimeout bounds a question to a leader that may not be there.
const leaderTimeout = 2 * time.Second

// fromLeader returns what the leader of p has: where subject is given its
// newest message, or with from its first one at or after that position.
// jetstream.ErrMsgNotFound where there is none. Direct reads are quicker and
// spread over the replicas, but a replica may lag behind.
func (b *Backbone) fromLeader(ctx context.Context, p *part, subject string, from uint64) (*jetstream.RawStreamMsg, error) {
	question := struct {
		Seq     uint64 `json:"seq,omitempty"`
		NextFor string `json:"next_by_subj,omitempty"`
		LastFor string `json:"last_by_subj,omitempty"`
	}{Seq: from}
	if from == 0 {
		question.LastFor = subject
	} else {
		question.NextFor = subject
	}
	data, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	m, err := b.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+p.name, data)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, fmt.Errorf("the store's answer: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, jetstream.ErrMsgNotFound
	case answer.Error != nil:
		return nil, answer.Error
	case answer.Message == nil:
		return nil, errors.New("the store's answer holds no message")
	}
	raw := &jetstream.RawStreamMsg{Subject: answer.Message.Subject, Sequence: answer.Message.Seq, Data: answer.Message.Data, Time: answer.Message.Time}
	if len(answer.Message.Header) > 0 {
		if raw.Header, err = nats.DecodeHeadersMsg(answer.Message.Header); err != nil {
			return nil, fmt.Errorf("the store's answer: %w", err)
		}
	}
	return raw, nil
}

// A streamInfo is what the leader of one of the store's streams says of it, as
// far as it matters here. NATS's client leaves out what a change of replicas
// waits for.
type streamInfo struct {
	Config  jetstream.StreamConfig `json:"config"`
	Cluster *struct {
		Leader   string                `json:"leader"`
		Replicas []*jetstream.PeerInfo `json:"replicas"` // but for the leader's
		// Desired is there while the replicas are being changed, from which
		// time on the new ones are among Replicas. Until it is done the loss
		// of an old one may cost everything.
		Desired *struct {
			Status *struct {
				Description string `json:"description"`
			} `json:"status"`
		} `json:"desired"`
	} `json:"cluster"` // nil where the server is not in a cluster
	Error *jetstream.APIError `json:"error"`
}

// info asks the leader of p.
func (b *Backbone) info(ctx context.Context, p *part) (*streamInfo, error) {
	m, err := b.conn.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+p.name, nil)
	if err != nil {
		return nil, err
	}
	info := &streamInfo{}
	if err := json.Unmarshal(m.Data, info); err != nil {
		return nil, fmt.Errorf("the store's answer: %w", err)
	}
	if info.Error != nil {
		return nil, info.Error
	}
	return info, nil
}
