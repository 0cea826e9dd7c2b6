package telemetry_test

import (
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/athena-hub/athena/internal/telemetry"
)

func scrape(t *testing.T, m *telemetry.Metrics) string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != 200 {
		t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func TestWhatHappensIsScraped(t *testing.T) {
	m := telemetry.NewMetrics("v1.2.3")
	m.Opened("sse")
	m.Opened("sse")
	m.Closed("sse", "done", 3*time.Second)
	m.Wrote("websocket", 3, 4, 500, 7)
	m.Wrote("carrier pigeon", 1, 0, 1, 0)
	m.FirstContent("claude", 300*time.Millisecond)
	m.ProviderCall("claude", "big", "ok", 2*time.Second)
	m.AnalysisStarted()
	m.AnalysisStarted()
	m.AnalysisEnded("completed")
	m.StoreFailed()
	m.Unstored(10)
	m.Unstored(-4)
	m.Request("GET /v1/ws", 101, time.Millisecond, true)
	m.Request("GET /v1/providers", 200, time.Millisecond, false)
	m.ObserveFeeds(func() int { return 2 }, func() int64 { return 99 }, func() int64 { return 5 })
	text := scrape(t, m)
	for _, line := range []string{
		`athena_connections{transport="sse"} 1`, `athena_connections_total{transport="sse"} 2`, `athena_connections{transport="long-poll"} 0`,
		`athena_connections_closed_total{reason="done",transport="sse"} 1`,
		`athena_events_written_total{transport="websocket"} 3`, `athena_events_merged_total{transport="websocket"} 4`,
		`athena_bytes_written_total{transport="websocket"} 500`, `athena_messages_written_total{transport="other"} 1`,
		`athena_write_lag_events_bucket{transport="websocket",le="4"} 0`, `athena_write_lag_events_bucket{transport="websocket",le="8"} 1`,
		`athena_provider_first_content_seconds_bucket{provider="claude",le="0.5"} 1`,
		`athena_provider_calls_total{model="big",outcome="ok",provider="claude"} 1`,
		`athena_provider_call_seconds_sum{provider="claude"} 2`,
		`athena_analyses_running 1`, `athena_analyses_started_total 2`, `athena_analyses_ended_total{outcome="completed"} 1`,
		`athena_store_failures_total 1`, `athena_store_degraded 1`, `athena_store_unstored_bytes 6`,
		`athena_http_requests_total{route="GET /v1/ws",status="101"} 1`, `athena_http_request_seconds_count{route="GET /v1/providers"} 1`,
		`athena_connection_seconds_sum{transport="sse"} 3`,
		`athena_feeds 2`, `athena_feed_bytes 99`, `athena_feed_evictions_total 5`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	for _, re := range []string{`athena_build_info\{go="go1[^"]+",revision="[^"]+",version="v1\.2\.3"\} 1`, `\ngo_goroutines \d`, `\nprocess_cpu_seconds_total `} {
		if !regexp.MustCompile(re).MatchString(text) {
			t.Errorf("no match for %s", re)
		}
	}
	m.BatchStored(5, 1000, time.Millisecond)
	text = scrape(t, m)
	for _, line := range []string{`athena_store_degraded 0`, `athena_store_batches_total 1`, `athena_store_events_total 5`, `athena_store_bytes_total 1000`, `athena_store_batch_seconds_count 1`} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

func TestModelsThatClientsInventDoNotGrowTheMetrics(t *testing.T) {
	m := telemetry.NewMetrics("")
	for i := range telemetry.MaxModels + 50 {
		m.ProviderCall("p", fmt.Sprintf("m%d", i), "ok", 0)
	}
	m.ProviderCall("p", "m0", "ok", 0)
	text := scrape(t, m)
	if n := strings.Count(text, "\nathena_provider_calls_total{"); n != telemetry.MaxModels+1 {
		t.Errorf("%d series, want %d and one for the others", n, telemetry.MaxModels)
	}
	for _, line := range []string{`{model="other",outcome="ok",provider="p"} 50`, `{model="m0",outcome="ok",provider="p"} 2`} {
		if !strings.Contains(text, "athena_provider_calls_total"+line) {
			t.Errorf("no line %s", line)
		}
	}
}

func TestTheHotPathDoesNotAllocate(t *testing.T) {
	m := telemetry.NewMetrics("")
	if n := testing.AllocsPerRun(100, func() { m.Wrote("websocket", 1, 0, 200, 1) }); n != 0 {
		t.Errorf("Wrote allocates %v times", n)
	}
}

func TestLogsHaveTheFormatAndLevelAskedFor(t *testing.T) {
	for _, c := range []struct{ level, format, want string }{
		{"info", "json", `^\{"level":"info","n":1,"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","message":"hello"\}\n$`},
		{"info", "auto", `^\{"level":"info"`},
		{"debug", "console", `^\d\d:\d\d:\d\d DBG quiet\n\d\d:\d\d:\d\d INF hello n=1\n$`},
		{"error", "json", `^$`}, {"off", "json", `^$`},
	} {
		var b strings.Builder
		l, err := telemetry.NewLogger(&b, c.level, c.format)
		if err != nil {
			t.Fatal(err)
		}
		l.Debug().Msg("quiet")
		l.Info().Int("n", 1).Msg("hello")
		if !regexp.MustCompile(c.want).MatchString(b.String()) {
			t.Errorf("%s %s: %q", c.level, c.format, b.String())
		}
	}
	for _, c := range [][2]string{{"loud", "json"}, {"info", "xml"}, {"", "json"}} {
		if _, err := telemetry.NewLogger(&strings.Builder{}, c[0], c[1]); err == nil {
			t.Errorf("%v was taken", c)
		}
	}
}
