package telemetry

import "github.com/prometheus/client_golang/prometheus"

// KeyGauges are how one key of a provider does. ID is its name, never the key.
type KeyGauges struct {
	Provider, ID string
	State        string
	Calls, Rests uint64
}

var (
	keyState = prometheus.NewDesc(namespace+"_provider_key_state", "1 for the state of each key of a provider: ok, refused, exhausted, limited or sealed.",
		[]string{"provider", "key", "state"}, nil)
	keyCalls = prometheus.NewDesc(namespace+"_provider_key_calls_total", "Calls that were made with each key.", []string{"provider", "key"}, nil)
	keyRests = prometheus.NewDesc(namespace+"_provider_key_failures_total", "Calls that failed for their key's sake: refused, out of quota, or too many.", []string{"provider", "key"}, nil)
)

// A keyCollector reads how keys do.
type keyCollector struct{ read func() []KeyGauges }

// Describe implements prometheus.Collector.
func (keyCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- keyState
	ch <- keyCalls
	ch <- keyRests
}

// Collect implements prometheus.Collector.
func (c keyCollector) Collect(ch chan<- prometheus.Metric) {
	for _, k := range c.read() {
		ch <- prometheus.MustNewConstMetric(keyState, prometheus.GaugeValue, 1, k.Provider, k.ID, k.State)
		ch <- prometheus.MustNewConstMetric(keyCalls, prometheus.CounterValue, float64(k.Calls), k.Provider, k.ID)
		ch <- prometheus.MustNewConstMetric(keyRests, prometheus.CounterValue, float64(k.Rests), k.Provider, k.ID)
	}
}

// ObserveKeys registers what is asked for at each scrape: how the keys of
// providers do. It is for once.
func (m *Metrics) ObserveKeys(read func() []KeyGauges) { m.registry.MustRegister(keyCollector{read}) }
