"""What QGIS makes of files that are dropped on it, as JSON, and a picture: `python3 tests/in_qgis.py PICTURE FILE…`

The Python that QGIS comes with runs it, which knows nothing of minec2f."""
import json, os, sys
os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen') # no screen is needed

from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtCore import QSize

def of_map(path):
    "Layer, and what it shows: each colour as (value, colour, opacity)"
    layer = QgsRasterLayer(path, 'map')
    renderer = layer.renderer()
    stops = renderer.shader().rasterShaderFunction().colorRampItemList()
    return layer, dict(renderer=renderer.type(), bands=renderer.usesBands(),
                       limits=[renderer.classificationMin(), renderer.classificationMax()],
                       stops=[[o.value, o.color.name(), o.color.alpha()] for o in stops])

def of_polygons(path):
    "Layer, and what it shows: for each rule the label, the kinds of lines, the uppermost colour and how many it draws"
    layer = QgsVectorLayer(path, 'polygons', 'ogr')
    rules = []
    for rule in layer.renderer().rootRule().children():
        lines = rule.symbol().symbolLayers()
        chosen = '' if rule.isElse() else rule.filterExpression()
        layer.setSubsetString(chosen)
        kinds = sorted({o.layerType() for o in lines})
        rules.append([rule.label(), kinds, lines[-1].color().name(), layer.featureCount()])
        layer.setSubsetString('')
    return layer, dict(rules=rules, aliases={o.name(): o.alias() for o in layer.fields()})

def draw(layers, path):
    settings = QgsMapSettings()
    settings.setLayers(layers[::-1])
    settings.setDestinationCrs(layers[0].crs())
    settings.setExtent(layers[0].extent())
    settings.setOutputSize(QSize(600, 600))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(path)

if __name__=='__main__':
    picture, *paths = sys.argv[1:]
    app = QgsApplication([], False)
    app.initQgis()
    layers, said = zip(*((of_map if o.endswith('.tif') else of_polygons)(o) for o in paths))
    draw(layers, picture)
    print(json.dumps(said))
    sys.stdout.flush()
    os._exit(0) # QGIS' own way out crashes now and then where there is no screen
