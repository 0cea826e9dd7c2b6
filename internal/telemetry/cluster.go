package telemetry

import "github.com/prometheus/client_golang/prometheus"

// clusterMetrics are those of a node among others.
type clusterMetrics struct {
	takeovers *prometheus.CounterVec
	handovers prometheus.Counter
	fenced    prometheus.Counter
	verified  prometheus.Counter
	forwarded prometheus.Counter
}

func newClusterMetrics(reg prometheus.Registerer) clusterMetrics {
	return clusterMetrics{
		takeovers: counterVec(reg, "takeovers_total", "Analyses of other nodes that this one took over, by reason (owner_lost or draining) and outcome (resumed, or failed where that was not possible).", "reason", "outcome"),
		handovers: counter(reg, "handovers_total", "Analyses that this node left to others when it shut down."),
		fenced:    counter(reg, "analyses_fenced_total", "Analyses that another node had taken over while this one believed to run them."),
		verified:  counter(reg, "lease_checks_total", "Times that this node looked which analyses were still its own: after others had taken it for gone, or after a pause."),
		forwarded: counter(reg, "analyses_forwarded_total", "Analyses that were asked of this node and started on another, while it shut down."),
	}
}

// The outcomes of taking an analysis over.
const (
	TakeoverResumed = "resumed"
	TakeoverFailed  = "failed"
)

// TakenOver counts an analysis of another node; one that was resumed runs here
// from now on. The reasons must be few.
func (m *Metrics) TakenOver(reason, outcome string) {
	if outcome == TakeoverResumed {
		m.running.Inc()
	}
	m.cluster.takeovers.WithLabelValues(reason, outcome).Inc()
}

// HandedOver counts an analysis that runs here no more, and has not ended.
// fenced says that another node had taken it, and it was not given.
func (m *Metrics) HandedOver(fenced bool) {
	m.running.Dec()
	if fenced {
		m.cluster.fenced.Inc()
	} else {
		m.cluster.handovers.Inc()
	}
}

// Verified counts that this node had reason to look which analyses are its own.
func (m *Metrics) Verified() { m.cluster.verified.Inc() }

// Forwarded counts an analysis that was started on another node.
func (m *Metrics) Forwarded() { m.cluster.forwarded.Inc() }

// ObserveCluster registers what is asked for at each scrape: how many nodes are
// up, this one included, whether the store has its majority, and how many live
// messages were dropped on their way here. It is for once.
func (m *Metrics) ObserveCluster(nodes func() int, majority func() bool, dropped func() uint64) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "cluster_nodes", Help: "Nodes that are up, this one included."}, func() float64 { return float64(nodes()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: "store_majority", Help: "1 while the store can be written to: a majority of its servers is there."}, func() float64 {
			if majority() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: "live_messages_dropped_total", Help: "Live messages from or to other nodes that were dropped. What they said is fetched."}, func() float64 { return float64(dropped()) }),
	)
}
