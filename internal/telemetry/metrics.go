package telemetry

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/athena-hub/athena/protocol"
)

const namespace = "athena"

// MaxModels bounds the pairs of provider and model that have metrics of their
// own. Clients may name models freely, and every label value stays in memory
// for good; beyond the bound the model is "other".
const MaxModels = 200

// Metrics are what a server counts. Their methods may be called concurrently.
type Metrics struct {
	// Set by NewMetrics, then read-only.
	registry   *prometheus.Registry
	transports map[string]*transportMetrics
	other      *transportMetrics

	providers     providerMetrics
	cluster       clusterMetrics
	closes        *prometheus.CounterVec
	running       prometheus.Gauge
	started       prometheus.Counter
	ended         *prometheus.CounterVec
	batches       prometheus.Counter
	storedEvents  prometheus.Counter
	storedBytes   prometheus.Counter
	storeSeconds  prometheus.Histogram
	storeFailures prometheus.Counter
	unstored      prometheus.Gauge
	degraded      prometheus.Gauge
	requests      *prometheus.CounterVec
	requestTime   *prometheus.HistogramVec
	refused       *prometheus.CounterVec
	limited       *prometheus.CounterVec

	mu     sync.Mutex
	models map[[2]string]bool // guarded by mu
}

// transportMetrics are those of one transport, found once so that the hot path
// doesn't look labels up.
type transportMetrics struct {
	connections prometheus.Gauge
	opened      prometheus.Counter
	messages    prometheus.Counter
	events      prometheus.Counter
	merged      prometheus.Counter
	bytes       prometheus.Counter
	lag         prometheus.Observer
	lived       prometheus.Observer
}

// NewMetrics returns metrics in a registry of their own, with Go's and the
// process's. version is the build's.
func NewMetrics(version string) *Metrics {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := &Metrics{registry: reg, transports: make(map[string]*transportMetrics), models: make(map[[2]string]bool)}

	m.registerTransports()
	m.providers = newProviderMetrics(reg)
	m.cluster = newClusterMetrics(reg)
	m.running = gauge(reg, "analyses_running", "Analyses that run now.")
	m.started = counter(reg, "analyses_started_total", "Analyses started.")
	m.ended = counterVec(reg, "analyses_ended_total", "Analyses ended, by outcome: completed, failed or cancelled.", "outcome")
	m.batches = counter(reg, "store_batches_total", "Batches of events stored.")
	m.storedEvents = counter(reg, "store_events_total", "Events stored.")
	m.storedBytes = counter(reg, "store_bytes_total", "Bytes of events stored.")
	m.storeSeconds = histogram(reg, "store_batch_seconds", "Time that storing a batch took.", []float64{.0005, .001, .0025, .005, .01, .025, .1, .5, 2, 10})
	m.storeFailures = counter(reg, "store_failures_total", "Failed tries to store a batch. Each is tried again.")
	m.unstored = gauge(reg, "store_unstored_bytes", "Bytes of events that wait to be stored.")
	m.degraded = gauge(reg, "store_degraded", "1 while the store does not take events.")
	m.requests = counterVec(reg, "http_requests_total", "HTTP requests answered, by route and status.", "route", "status")
	m.limited = counterVec(reg, "limited_total", "What was refused since a limit was reached, by limit.", "limit")
	m.requestTime = histogramVec(reg, "http_request_seconds", "Time until an HTTP request was answered. Event streams and WebSockets are not in it: connection_seconds is how long they lived.",
		[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30, 120, 600}, "route")

	m.refused = counterVec(reg, "auth_failures_total", "Requests and tokens refused, by why.", "reason")

	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "go": runtime.Version()}})
	build.Set(1)
	reg.MustRegister(build)
	return m
}

func (m *Metrics) registerTransports() {
	reg := m.registry
	connections := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "connections", Help: "Clients connected now; a long-poll is one while it waits."}, []string{"transport"})
	reg.MustRegister(connections)
	opened := counterVec(reg, "connections_total", "Connections opened.", "transport")
	messages := counterVec(reg, "messages_written_total", "Messages written to clients.", "transport")
	events := counterVec(reg, "events_written_total", "Events written to clients.", "transport")
	merged := counterVec(reg, "events_merged_total", "Events that were merged into others before they were written.", "transport")
	bytes := counterVec(reg, "bytes_written_total", "Bytes of messages written to clients, without framing.", "transport")
	lag := histogramVec(reg, "write_lag_events", "How many events the furthest cursor was behind when a message was written.",
		[]float64{0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096}, "transport")
	lived := histogramVec(reg, "connection_seconds", "How long connections lived; a long-poll, how long it waited.",
		[]float64{.01, .1, 1, 5, 30, 120, 600, 3600, 6 * 3600, 24 * 3600}, "transport")
	m.closes = counterVec(reg, "connections_closed_total", "Connections closed, by reason.", "transport", "reason")
	resolve := func(name string) *transportMetrics {
		return &transportMetrics{
			connections: connections.WithLabelValues(name), opened: opened.WithLabelValues(name), messages: messages.WithLabelValues(name),
			events: events.WithLabelValues(name), merged: merged.WithLabelValues(name), bytes: bytes.WithLabelValues(name), lag: lag.WithLabelValues(name), lived: lived.WithLabelValues(name),
		}
	}
	for _, name := range []string{protocol.TransportWebSocket, protocol.TransportSSE, protocol.TransportLongPoll} {
		m.transports[name] = resolve(name)
	}
	m.other = resolve("other")
}

// Handler serves the metrics to Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// transport returns the metrics of one transport, by its protocol name.
func (m *Metrics) transport(name string) *transportMetrics {
	if t, ok := m.transports[name]; ok {
		return t
	}
	return m.other
}

// Opened counts a connection that begins.
func (m *Metrics) Opened(transport string) {
	t := m.transport(transport)
	t.connections.Inc()
	t.opened.Inc()
}

// Closed counts a connection that ends. The reasons must be few.
func (m *Metrics) Closed(transport, reason string, lived time.Duration) {
	t := m.transport(transport)
	t.connections.Dec()
	t.lived.Observe(lived.Seconds())
	m.closes.WithLabelValues(transport, reason).Inc()
}

// Wrote counts one message: its events, how many more were merged into them,
// its bytes, and how many events its furthest cursor was behind.
func (m *Metrics) Wrote(transport string, events, merged, bytes int, lag uint64) {
	t := m.transport(transport)
	t.messages.Inc()
	t.events.Add(float64(events))
	t.merged.Add(float64(merged))
	t.bytes.Add(float64(bytes))
	t.lag.Observe(float64(lag))
}

// model bounds the label.
func (m *Metrics) model(provider, model string) string {
	key := [2]string{provider, model}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.models[key] {
		if len(m.models) >= MaxModels {
			return "other"
		}
		m.models[key] = true
	}
	return model
}

// AnalysisStarted counts an analysis that begins.
func (m *Metrics) AnalysisStarted() {
	m.started.Inc()
	m.running.Inc()
}

// AnalysisEnded follows each AnalysisStarted. The outcome is the type of the
// terminal event.
func (m *Metrics) AnalysisEnded(outcome string) {
	m.running.Dec()
	m.ended.WithLabelValues(outcome).Inc()
}

// BatchStored counts a batch of the log.
func (m *Metrics) BatchStored(events, bytes int, took time.Duration) {
	m.batches.Inc()
	m.storedEvents.Add(float64(events))
	m.storedBytes.Add(float64(bytes))
	m.storeSeconds.Observe(took.Seconds())
	m.degraded.Set(0)
}

// StoreFailed counts a failed try to store a batch. The store counts as
// degraded until the next batch is stored.
func (m *Metrics) StoreFailed() {
	m.storeFailures.Inc()
	m.degraded.Set(1)
}

// Unstored changes the number of bytes that wait to be stored.
func (m *Metrics) Unstored(delta int) { m.unstored.Add(float64(delta)) }

// Request counts an HTTP request. The route is a pattern, not a path. streamed
// says that the answer is a stream, whose time is not that of a request.
func (m *Metrics) Request(route string, status int, took time.Duration, streamed bool) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	if !streamed {
		m.requestTime.WithLabelValues(route).Observe(took.Seconds())
	}
}

// Refused counts a caller that was refused. why is one of a few words.
func (m *Metrics) Refused(why string) { m.refused.WithLabelValues(why).Inc() }

// ObserveFeeds registers what is asked for at each scrape: how many feeds
// there are, their bytes, and how many were evicted so far. It is for once.
func (m *Metrics) ObserveFeeds(count func() int, bytes, evicted func() int64) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "feeds", Help: "Streams held in memory."}, func() float64 { return float64(count()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "feed_bytes", Help: "Memory that streams take."}, func() float64 { return float64(bytes()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: "feed_evictions_total", Help: "Streams dropped from memory."}, func() float64 { return float64(evicted()) }),
	)
}

func counter(reg prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	reg.MustRegister(c)
	return c
}

func counterVec(reg prometheus.Registerer, name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	reg.MustRegister(c)
	return c
}

func gauge(reg prometheus.Registerer, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	reg.MustRegister(g)
	return g
}

func histogram(reg prometheus.Registerer, name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
	reg.MustRegister(h)
	return h
}

func histogramVec(reg prometheus.Registerer, name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	reg.MustRegister(h)
	return h
}
