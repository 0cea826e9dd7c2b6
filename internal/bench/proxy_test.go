//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/athena-hub/athena/protocol"
)

// A proxy is the least that stands between an upstream and a client: it reads
// the upstream's SSE line by line, decodes each chunk with encoding/json, and
// writes it on as it came.
type proxy struct {
	url    string
	client *http.Client
}

func newProxy(upstream string) *proxy {
	return &proxy{url: upstream + "/v1/chat/completions", client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}}
}

var errNoStreams = errors.New("a proxy has no streams of its own")

func (p *proxy) create(context.Context) (string, error) { return "", errNoStreams }
func (p *proxy) publish(string, string) error           { return errNoStreams }
func (p *proxy) end(string) error                       { return errNoStreams }

func (p *proxy) close() error {
	p.client.CloseIdleConnections()
	return nil
}

// upstreamChunk is what a proxy decodes of each chunk.
type upstreamChunk struct {
	ID      string `json:"id"`
	Model   string `json:"model"`
	Choices []struct {
		Index int `json:"index"`
		Delta struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		} `json:"delta"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := p.forward(w, r); err != nil && r.Context().Err() == nil {
		// The client sees that the answer is not whole.
		panic(http.ErrAbortHandler)
	}
}

func (p *proxy) forward(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	write := func(b []byte) error {
		if _, err := w.Write(b); err != nil {
			return err
		}
		return control.Flush()
	}
	if err := write(protocol.AppendSSE(nil, nil, "welcome", []byte("{}"))); err != nil {
		return err
	}
	const question = `{"model":"bench","stream":true,"messages":[{"role":"user","content":"x"}]}`
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, p.url, bytes.NewReader([]byte(question)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the upstream answered %s", resp.Status)
	}
	var frame []byte
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 4<<10), protocol.MaxEventBytes)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		if string(data) != "[DONE]" {
			var chunk upstreamChunk
			if err := json.Unmarshal(data, &chunk); err != nil {
				return err
			}
		}
		frame = append(append(frame[:0], lines.Bytes()...), "\n\n"...)
		if err := write(frame); err != nil {
			return err
		}
	}
	return lines.Err()
}
